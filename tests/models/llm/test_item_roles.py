from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.small_model import SMALL_NETWORK
from torch import Tensor

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.item_roles import ItemGates, drop_roles
from recbole_hellm.models.llm.item_tokens import ItemTokens
from recbole_hellm.models.llm.settings import LLMSettings

N = 9
SEQUENCES = torch.tensor([[3, 1, 4, 1], [9, 2, 6, 0]])


def tables() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(N + 1, width, generator=generator, dtype=torch.float64)
        for name, width in (("graph", 4), ("sequence", 3))
    }
    for table in drawn.values():
        table[0] = 0
    return drawn


@pytest.fixture(name="tokens")
def _tokens() -> Callable[..., ItemTokens]:
    def build(**options: Any) -> ItemTokens:
        torch.manual_seed(4)
        return ItemTokens(
            5, N, tables(), inputs=("graph", "sequence"), mlp_hidden=6, vectors=True, **options
        ).double()

    return build


def network(**options: Any) -> HeLLMNetwork:
    torch.manual_seed(1)
    quiet = {"backbone_dropout": 0.0, "prefix_dropout": 0.0, "pooling_dropout": 0.0}
    return HeLLMNetwork(LLMSettings(**{**SMALL_NETWORK, **quiet, **options}), tables()).double()


# --------------------------------------------------------------- dropout of roles


def test_a_dropped_role_is_zero_as_a_whole_and_the_others_are_scaled() -> None:
    rows = [torch.randn(400, 3, dtype=torch.float64), torch.randn(400, 2, dtype=torch.float64)]
    torch.manual_seed(0)
    dropped = drop_roles(rows, 0.25)
    kept = torch.stack([values.abs().sum(1) > 0 for values in dropped])
    for row, values, mask in zip(rows, dropped, kept, strict=True):
        for item in range(400):
            expected = row[item] / 0.75 if mask[item] else torch.zeros_like(row[item])
            torch.testing.assert_close(values[item], expected)
    # Standard errors are 0.02: each role at its rate, and both at once at its square.
    assert kept.double().mean(1).tolist() == pytest.approx([0.75, 0.75], abs=0.07)
    assert float((~kept).all(0).double().mean()) == pytest.approx(0.0625, abs=0.04)


def test_tokens_are_the_formula_of_the_roles_that_are_left(
    tokens: Callable[..., ItemTokens],
) -> None:
    module = tokens(role_dropout=0.5).train()
    assert module.mlp is not None
    assert module.vectors is not None
    seen, given = set(), tables()
    for seed in range(6):
        torch.manual_seed(seed)
        got = module.all()
        for item in range(1, N + 1):
            for mask in ((0, 0), (0, 2), (2, 0), (2, 2)):
                joined = torch.cat(
                    [
                        scale * given[name][item].float().double()
                        for scale, name in zip(mask, ("graph", "sequence"), strict=True)
                    ]
                )
                expected = module.mlp(joined) + module.vectors.weight[item]
                if torch.allclose(got[item], expected):
                    seen.add(mask)
                    break
            else:
                raise AssertionError(f"item {item} is no such formula")
    assert len(seen) == 4


def test_evaluation_and_a_rate_of_zero_leave_nothing_out_and_draw_nothing(
    tokens: Callable[..., ItemTokens],
) -> None:
    plain = tokens().eval().all()
    assert torch.equal(tokens(role_dropout=0.5).eval().all(), plain)
    module = tokens(role_dropout=0.0).train()
    state = torch.get_rng_state()
    assert torch.equal(module.all(), plain)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("head", ["tied", "linear"])
def test_an_item_has_one_draw_in_a_pass_only_if_its_tokens_score_too(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(head=head, role_dropout=0.5, prefix="none").train()
    read: list[Tensor] = []
    items = net._items

    def spy(ids: Tensor, table: Tensor | None) -> Tensor:
        found = items(ids, table)
        read.extend(found[ids == 1])
        return found

    monkeypatch.setattr(net, "_items", spy)
    differing = 0
    for seed in range(8):
        read.clear()
        torch.manual_seed(seed)
        net.sequence_loss(torch.tensor([[1, 1, 1, 1, 2]])).backward()
        differing += any(not torch.equal(read[0], other) for other in read[1:])
    assert (differing == 0) == (head == "tied")


def test_role_dropout_without_roles_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"role_dropout=0.1 drops .* or leave out role_dropout"):
        LLMSettings(role_dropout=0.1, item_inputs=(), item_vectors=True, prefix="none")
    LLMSettings(role_dropout=0.1)


# --------------------------------------------------------------- gates

COUNTS = torch.tensor([0, 0, 1, 2, 5, 8, 20, 100, 3, 1])


def test_gates_follow_the_formula_item_by_item(tokens: Callable[..., ItemTokens]) -> None:
    module, given = tokens(gated=True, counts=COUNTS), tables()
    assert module.gates is not None
    assert module.mlp is not None
    assert module.vectors is not None
    for parameter in module.gates.parameters():
        torch.nn.init.normal_(parameter)
    first, second = module.mlp[0], module.mlp[2]
    got = module.all()
    for item in range(N + 1):
        gates = []
        pairs = zip(module.gates.slopes.tolist(), module.gates.offsets.tolist(), strict=True)
        for slope, offset in pairs:
            x = slope * math.log(1 + int(COUNTS[item])) + offset
            gates.append(2 / (1 + math.exp(-x)))
        rows = [given[name][item].float().double() for name in ("graph", "sequence")]
        joined = torch.cat([gate * row for gate, row in zip(gates[:2], rows, strict=True)])
        hidden = F.gelu(first.weight @ joined + first.bias)
        expected = second.weight @ hidden + second.bias + gates[2] * module.vectors.weight[item]
        torch.testing.assert_close(got[item], expected)
    ids = torch.tensor([[3, 0], [7, 9]])
    torch.testing.assert_close(module(ids), got[ids])


def test_gates_start_at_one_and_learn_from_the_items_that_are_read(
    tokens: Callable[..., ItemTokens],
) -> None:
    plain, gated = tokens(), tokens(gated=True, counts=COUNTS)
    state = torch.get_rng_state()
    assert torch.equal(gated.all(), plain.all())
    assert torch.equal(torch.get_rng_state(), state)
    assert gated.gates is not None
    gated(torch.tensor([6])).square().sum().backward()
    slopes, offsets = gated.gates.slopes.grad, gated.gates.offsets.grad
    assert slopes is not None
    assert offsets is not None
    assert (offsets != 0).all()
    torch.testing.assert_close(slopes, math.log(21) * offsets)


def test_a_gate_alone_stands_before_vectors_alone() -> None:
    module = ItemTokens(
        5, N, {}, inputs=(), mlp_hidden=6, vectors=True, gated=True, counts=COUNTS
    ).double()
    assert module.gates is not None
    assert module.vectors is not None
    module.gates.offsets.data.fill_(1)
    expected = 2 * torch.sigmoid(torch.tensor(1.0, dtype=torch.float64)) * module.vectors.weight
    torch.testing.assert_close(module.all(), expected)


@torch.no_grad()
def test_scores_follow_the_gates_from_one_batch_to_the_next() -> None:
    torch.manual_seed(1)
    net = HeLLMNetwork(LLMSettings(item_gate=True, **SMALL_NETWORK), tables(), item_counts=COUNTS)
    net = net.double().eval()
    lengths = torch.tensor([4, 3])
    before = net.logits(net.hidden_states(SEQUENCES, lengths))
    assert torch.equal(net.logits(net.hidden_states(SEQUENCES, lengths)), before)
    assert net.tokens.gates is not None
    net.tokens.gates.slopes.fill_(-0.5)
    after = net.logits(net.hidden_states(SEQUENCES, lengths))
    assert not torch.allclose(after[:, 1:], before[:, 1:])
    table = net.tokens(torch.arange(N + 1))
    read = net.hidden_states(SEQUENCES, lengths)
    torch.testing.assert_close(after[:, 1:], read @ table[1:].T)


def test_gates_without_fitting_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="give them as item_counts"):
        HeLLMNetwork(LLMSettings(item_gate=True, **SMALL_NETWORK), tables())
    with pytest.raises(DataError, match=r"shape \(9,\), but 9 items need 10 numbers"):
        ItemGates(COUNTS[1:], N, 3)
