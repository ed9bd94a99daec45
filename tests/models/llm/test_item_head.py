from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.small_model import SMALL_NETWORK
from torch import Tensor

from recbole_hellm.errors import ConfigError
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.item_head import START, ItemHead
from recbole_hellm.models.llm.settings import LLMSettings

N = 7
SEQUENCES = torch.tensor([[3, 1, 4, 1], [5, 2, 6, 0]])
LENGTHS = torch.tensor([4, 3])


def network(**options: Any) -> HeLLMNetwork:
    torch.manual_seed(1)
    tables = {name: torch.randn(N + 1, 4, dtype=torch.float64) for name in ("graph", "sequence")}
    return HeLLMNetwork(LLMSettings(**{**SMALL_NETWORK, **options}), tables).double().eval()


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


def cosine_scores(net: HeLLMNetwork, hidden: Tensor) -> list[list[Tensor]]:
    """exp(s) cos(W h, x), number by number."""
    assert net.head.log_scale is not None
    read = hidden @ net.head.linear.weight.T
    tokens = net.tokens(torch.arange(N + 1))
    return [
        [
            net.head.log_scale.exp()[0]
            * (query * token).sum()
            / (query.square().sum().sqrt() * token.square().sum().sqrt())
            for token in tokens[1:]
        ]
        for query in read
    ]


@pytest.mark.parametrize("options", [{}, {"targets": "last"}], ids=["every", "last"])
def test_a_cosine_head_follows_the_formula(options: dict[str, Any]) -> None:
    net = network(head_scale="cosine", **options)
    assert net.head.log_scale is not None
    assert float(net.head.log_scale.detach().exp()) == pytest.approx(1 / 0.07)
    net.head.log_scale.data.fill_(0.7)
    states = net._states(SEQUENCES, LENGTHS, None, None)
    expected = torch.stack([torch.stack(row) for row in cosine_scores(net, states)])
    for _ in range(2):  # computed, then kept
        with torch.no_grad():
            scores = net.logits(net.hidden_states(SEQUENCES, LENGTHS))
        torch.testing.assert_close(scores[:, 1:], expected.detach())
        assert torch.isneginf(scores[:, 0]).all()
    assert (scores[:, 1:].abs() <= math.exp(0.7)).all()

    target = torch.tensor([2, 7])
    loss = net.loss(SEQUENCES, LENGTHS, target)
    literal = -torch.stack(
        [
            row[int(item) - 1] - torch.stack([score.exp() for score in row]).sum().log()
            for row, item in zip(expected, target, strict=True)
        ]
    ).mean()
    torch.testing.assert_close(loss, literal)
    trained = [p for p in net.parameters() if p.requires_grad]
    own = torch.autograd.grad(loss, trained, allow_unused=True)
    other = torch.autograd.grad(literal, trained, allow_unused=True)
    for left, right in zip(own, other, strict=True):
        if left is not None or right is not None:
            torch.testing.assert_close(left, right)


def test_a_longer_token_scores_no_higher_by_a_cosine() -> None:
    head = ItemHead("tied", 4, N, trainable=True, cosine=True).double()
    tokens, hidden = torch.randn(N + 1, 4).double(), torch.randn(2, 4).double()
    longer = tokens * torch.arange(1, N + 2).unsqueeze(1)
    scores = head.read_out(hidden) @ head.weights(tokens).T
    torch.testing.assert_close(head.read_out(hidden) @ head.weights(longer).T, scores)


def test_a_head_without_a_scale_is_as_it_was() -> None:
    torch.manual_seed(3)
    plain, after = ItemHead("tied", 4, N, trainable=True), torch.get_rng_state()
    torch.manual_seed(3)
    scaled = ItemHead("tied", 4, N, trainable=True, cosine=True)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(plain.linear.weight, scaled.linear.weight)
    assert list(plain.state_dict()) == ["linear.weight"]
    assert list(scaled.state_dict()) == ["log_scale", "linear.weight"]


def test_the_scale_is_trained_with_the_head_and_never_decayed() -> None:
    net = network(head_scale="cosine")
    groups = net.trainable_parameter_groups(0.1)
    decays = [g["weight_decay"] for g in groups for p in g["params"] if p is net.head.log_scale]
    assert decays == [0.0]
    frozen = network(head_scale="cosine", train_head=False)
    assert frozen.head.log_scale is not None
    assert not frozen.head.log_scale.requires_grad
    assert float(frozen.head.log_scale) == pytest.approx(START)


def test_a_cosine_needs_the_item_tokens() -> None:
    with pytest.raises(ConfigError, match=r"head_scale=cosine .* needs head=tied; set --head=tied"):
        LLMSettings(head_scale="cosine", backbone="folder")
    LLMSettings(head_scale="cosine", backbone="folder", head="tied")
