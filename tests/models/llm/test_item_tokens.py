from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_hellm.errors import DataError
from recbole_hellm.models.llm.item_tokens import ItemHead, ItemTokens

N = 7


def tables() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(  # type: ignore[return-value]
        torch.randn(N + 1, width, generator=generator, dtype=torch.float64) for width in (3, 5)
    )


def test_tokens_follow_the_formula_item_by_item() -> None:
    graph, sequence = tables()
    tokens = ItemTokens(
        4, N, graph, sequence, inputs=("graph", "sequence"), mlp_hidden=6, vectors=True
    ).double()
    assert tokens.mlp is not None
    assert tokens.vectors is not None
    first, second = tokens.mlp[0], tokens.mlp[2]
    ids = torch.tensor([[3, 1], [7, 3]])
    expected = torch.empty(2, 2, 4, dtype=torch.float64)
    for row in range(2):
        for column in range(2):
            i = int(ids[row, column])
            joined = torch.cat([graph[i].float(), sequence[i].float()]).double()
            inner = F.gelu(first.weight @ joined + first.bias)
            expected[row, column] = second.weight @ inner + second.bias + tokens.vectors.weight[i]
    torch.testing.assert_close(tokens(ids), expected)
    torch.testing.assert_close(tokens.all()[ids], expected)


def test_one_input_alone_leaves_the_other_out() -> None:
    graph, sequence = tables()
    for name, width in (("graph", 3), ("sequence", 5)):
        tokens = ItemTokens(4, N, graph, sequence, inputs=(name,), mlp_hidden=6)  # type: ignore[arg-type]
        assert tokens.mlp is not None
        assert tokens.mlp[0].in_features == width


def test_collm_and_llara_projectors_are_settings() -> None:
    graph, _ = tables()
    tokens = ItemTokens(8, N, graph, None, inputs=("graph",), mlp_hidden=30, activation="relu")
    assert tokens.mlp is not None
    assert [tuple(p.shape) for p in tokens.mlp.parameters()] == [(30, 3), (30,), (8, 30), (8,)]
    assert isinstance(tokens.mlp[1], torch.nn.ReLU)


def test_tables_are_frozen_unless_trained_and_padding_is_zero() -> None:
    graph, _ = tables()
    frozen = ItemTokens(4, N, graph, None, inputs=("graph",), mlp_hidden=6)
    assert not frozen.table("graph").weight.requires_grad
    trained = ItemTokens(4, N, graph, None, inputs=("graph",), mlp_hidden=6, train_tables=True)
    trained(torch.tensor([0, 2])).sum().backward()
    gradient = trained.table("graph").weight.grad
    assert gradient is not None
    assert gradient[0].abs().sum() == 0
    assert gradient[2].abs().sum() > 0
    assert trained.table("graph").weight[0].abs().sum() == 0


def test_normalised_tables_have_unit_root_mean_square() -> None:
    graph, sequence = tables()
    tokens = ItemTokens(
        4, N, graph * 40, sequence, inputs=("graph", "sequence"), mlp_hidden=6, normalise=True
    )
    for name, table in (("graph", graph), ("sequence", sequence)):
        weight = tokens.table(name).weight
        torch.testing.assert_close(weight[1:].square().mean(), torch.tensor(1.0))
        torch.testing.assert_close(weight[1:] / weight[1, 0], (table[1:] / table[1, 0]).float())


def test_tables_that_are_missing_or_misshapen_are_named() -> None:
    graph, _ = tables()
    with pytest.raises(DataError, match="sequence embeddings"):
        ItemTokens(4, N, graph, None, inputs=("graph", "sequence"), mlp_hidden=6)
    with pytest.raises(DataError, match=r"graph table has shape \(7, 3\).*8 rows"):
        ItemTokens(4, N, graph[1:], None, inputs=("graph",), mlp_hidden=6)


def test_vectors_alone_make_a_token() -> None:
    tokens = ItemTokens(4, N, None, None, inputs=(), mlp_hidden=6, vectors=True)
    assert tokens.mlp is None
    assert torch.equal(tokens(torch.tensor([2])), tokens.all()[[2]])
    assert tokens.all()[0].abs().sum() == 0
    assert 0.01 < float(tokens.all().detach()[1:].std()) < 0.04


def test_linear_head_starts_uniform_and_may_stay_as_drawn() -> None:
    head = ItemHead("linear", 16, 400, trainable=False)
    weights = head.weights(None)
    assert weights.shape == (400, 16)
    assert not weights.requires_grad
    assert float(weights.detach().abs().max()) <= 1 / math.sqrt(16)
    assert float(weights.detach().abs().max()) > 0.9 / math.sqrt(16)
    hidden = torch.randn(3, 16)
    assert head.read_out(hidden) is hidden


def test_tied_head_scores_every_item_by_its_token() -> None:
    head, all_tokens = ItemHead("tied", 4, N, trainable=True), torch.randn(N + 1, 4)
    hidden = torch.randn(2, 4)
    logits = head.read_out(hidden) @ head.weights(all_tokens).T
    for row in range(2):
        for item in range(1, N + 1):
            expected = all_tokens[item] @ (head.linear.weight @ hidden[row])
            torch.testing.assert_close(logits[row, item - 1], expected)
