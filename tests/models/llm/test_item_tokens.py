from __future__ import annotations

import math

import pytest
import torch

from recbole_hellm.errors import DataError
from recbole_hellm.models.llm.item_tokens import ItemTokens

N = 7


WIDTHS = {"graph": 3, "sequence": 5, "my.module:Given": 2}


def tables(*names: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(N + 1, width, generator=generator, dtype=torch.float64)
        for name, width in WIDTHS.items()
    }
    return {name: drawn[name] for name in names}


@pytest.mark.parametrize(
    "inputs",
    [
        ("graph", "sequence"),
        ("sequence", "graph"),
        ("my.module:Given", "graph", "sequence"),
    ],
)
def test_tokens_follow_the_formula_item_by_item(inputs: tuple[str, ...]) -> None:
    given = tables(*sorted(inputs))
    tokens = ItemTokens(4, N, given, inputs=inputs, mlp_hidden=6, vectors=True).double()
    assert tokens.mlp is not None
    assert tokens.vectors is not None
    first, second = tokens.mlp[0], tokens.mlp[2]
    ids = torch.tensor([[3, 1], [7, 3]])
    expected = torch.zeros(2, 2, 4, dtype=torch.float64)
    for row in range(2):
        for column in range(2):
            i = int(ids[row, column])
            joined = [float(value) for name in inputs for value in given[name][i].float()]
            for out in range(4):
                total = second.bias[out] + tokens.vectors.weight[i, out]
                for unit in range(6):
                    x = first.bias[unit] + sum(
                        weight * value
                        for weight, value in zip(first.weight[unit], joined, strict=True)
                    )
                    gelu = x * (1 + torch.erf(x / math.sqrt(2))) / 2
                    total = total + second.weight[out, unit] * gelu
                expected[row, column, out] = total
    torch.testing.assert_close(tokens(ids), expected)
    torch.testing.assert_close(tokens.all()[ids], expected)


def test_one_input_alone_leaves_the_other_out() -> None:
    for name in ("graph", "sequence"):
        tokens = ItemTokens(4, N, tables("graph", "sequence"), inputs=(name,), mlp_hidden=6)
        assert tokens.mlp is not None
        assert tokens.mlp[0].in_features == WIDTHS[name]
        assert tokens.names == ("graph", "sequence")


def test_collm_and_llara_projectors_are_settings() -> None:
    tokens = ItemTokens(8, N, tables("graph"), inputs=("graph",), mlp_hidden=30, activation="relu")
    assert tokens.mlp is not None
    assert [tuple(p.shape) for p in tokens.mlp.parameters()] == [(30, 3), (30,), (8, 30), (8,)]
    assert isinstance(tokens.mlp[1], torch.nn.ReLU)


def test_tables_are_frozen_unless_trained_and_padding_is_zero() -> None:
    graph = tables("graph")
    frozen = ItemTokens(4, N, graph, inputs=("graph",), mlp_hidden=6)
    assert not frozen.table("graph").weight.requires_grad
    trained = ItemTokens(4, N, graph, inputs=("graph",), mlp_hidden=6, train_tables=True)
    trained(torch.tensor([0, 2])).sum().backward()
    gradient = trained.table("graph").weight.grad
    assert gradient is not None
    assert gradient[0].abs().sum() == 0
    assert gradient[2].abs().sum() > 0
    assert trained.table("graph").weight[0].abs().sum() == 0


def test_normalised_tables_have_unit_root_mean_square() -> None:
    given = tables(*WIDTHS)
    given["graph"] *= 40
    tokens = ItemTokens(4, N, given, inputs=tuple(WIDTHS), mlp_hidden=6, normalise=True)
    for name, table in given.items():
        weight = tokens.table(name).weight
        torch.testing.assert_close(weight[1:].square().mean(), torch.tensor(1.0))
        torch.testing.assert_close(weight[1:] / weight[1, 0], (table[1:] / table[1, 0]).float())


def test_a_loaded_table_takes_the_place_of_its_own() -> None:
    tokens = ItemTokens(4, N, tables(*WIDTHS), inputs=tuple(WIDTHS), mlp_hidden=6)
    before = tokens.table("graph").weight.clone()
    tokens.load_table("my.module:Given", torch.arange(2.0 * N).view(N, 2))
    weight = tokens.table("my.module:Given").weight
    assert torch.equal(weight, torch.cat([torch.zeros(1, 2), torch.arange(2.0 * N).view(N, 2)]))
    assert torch.equal(tokens.table("graph").weight, before)
    with pytest.raises(DataError, match="has 1 columns and replaces one of 2"):
        tokens.load_table("my.module:Given", torch.ones(N, 1))
    with pytest.raises(DataError, match="7 items need 8 rows"):
        tokens.load_table("my.module:Given", torch.ones(N - 1, 2))


def test_any_name_may_be_an_inputs() -> None:
    names = ("values", "my.module:Given", "text-minilm", "training")
    given = {name: torch.full((N + 1, 1), float(place)) for place, name in enumerate(names)}
    tokens = ItemTokens(4, N, given, inputs=names, mlp_hidden=6)
    assert [float(tokens.table(name).weight[1]) for name in names] == [0, 1, 2, 3]
    assert tokens.names == names
    assert len(tokens.state_dict()) == len(names) + 4


def test_the_papers_tables_have_the_names_of_earlier_runs() -> None:
    given = tables("graph", "sequence")
    tokens = ItemTokens(4, N, given, inputs=("graph", "sequence"), mlp_hidden=6)
    assert list(tokens.state_dict())[:2] == ["tables.graph.weight", "tables.sequence.weight"]


def test_tables_that_are_missing_or_misshapen_are_named() -> None:
    with pytest.raises(DataError, match="need the sequence embeddings, and there are none"):
        ItemTokens(4, N, tables("graph"), inputs=("graph", "sequence"), mlp_hidden=6)
    short = {"graph": tables("graph")["graph"][1:]}
    with pytest.raises(DataError, match=r"graph table has shape \(7, 3\).*8 rows"):
        ItemTokens(4, N, short, inputs=("graph",), mlp_hidden=6)


def test_vectors_alone_make_a_token() -> None:
    tokens = ItemTokens(4, N, {}, inputs=(), mlp_hidden=6, vectors=True)
    assert tokens.mlp is None
    assert torch.equal(tokens(torch.tensor([2])), tokens.all()[[2]])
    assert tokens.all()[0].abs().sum() == 0
    assert 0.01 < float(tokens.all().detach()[1:].std()) < 0.04
