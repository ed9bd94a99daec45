from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.small_model import SMALL_NETWORK
from torch import Tensor

from recbole_hellm.errors import ConfigError
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.requirements import outline, requirements
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.models.llm.stage_scores import StageScores

N = 7
WIDTHS = {"graph": 4, "sequence": 3}
ONE_PASS = {"targets": "last", "prefix": "none", "multi_target": True}
SEQUENCES = torch.tensor([[3, 1, 4, 1, 7], [5, 2, 6, 0, 0], [6, 4, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 2])


def network(**options: Any) -> HeLLMNetwork:
    """A network whose weights of the stages' scores were drawn."""
    torch.manual_seed(1)
    tables = {name: torch.randn(N + 1, d, dtype=torch.float64) for name, d in WIDTHS.items()}
    settings = LLMSettings(**{**SMALL_NETWORK, "stage_scores": True, **options})
    net = HeLLMNetwork(settings, tables).double().eval()
    for parameter in () if net.head.stages is None else net.head.stages.parameters():
        torch.nn.init.normal_(parameter)
    return net


def literal(net: HeLLMNetwork, history: list[int]) -> Tensor:
    """Scores of items 1..N after one history: the head's own, and each table's."""
    states = net.read_last if net.settings.targets == "last" else net.read_every
    found = states(torch.tensor([history]), torch.tensor([len(history)]))
    hidden = found[-1] if isinstance(found, Tensor) else found[0][-1]
    stages = net.head.stages
    assert stages is not None
    scores = []
    for j in range(1, N + 1):
        token = net.tokens(torch.tensor(j))
        if net.head.tied:
            query = net.head.linear.weight @ hidden
            if net.head.log_scale is not None:
                query = net.head.log_scale.exp() * query / query.square().sum().sqrt()
                token = token / token.square().sum().sqrt()
            score = (query * token).sum()
        else:
            score = (net.head.linear.weight[j - 1] * hidden).sum()
        for place, name in enumerate(net.tokens.inputs):
            table = net.tokens.table(name).weight
            last = (table[history[-1]] * table[j]).sum()
            mean = sum((table[i] * table[j]).sum() for i in history) / len(history)
            added = stages.last[place] * last + stages.mean[place] * mean
            score = score + added / math.sqrt(WIDTHS[name])
        scores.append(score)
    return torch.stack(scores)


CASES: dict[str, dict[str, Any]] = {
    "every": {},
    "every, cosine": {"head_scale": "cosine"},
    "every, no prefix, linear head": {"prefix": "none", "head": "linear"},
    "last": {"targets": "last"},
    "one pass": ONE_PASS,
    "one table": {"item_inputs": ("sequence",)},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_scores_and_losses_follow_the_formula(options: dict[str, Any]) -> None:
    net = network(**options)
    histories = [row[:length].tolist() for row, length in zip(SEQUENCES, LENGTHS, strict=True)]
    with torch.no_grad():
        scores = net.logits(net.hidden_states(SEQUENCES, LENGTHS))
        for row, history in zip(scores, histories, strict=True):
            torch.testing.assert_close(row[1:], literal(net, history))
            assert torch.isneginf(row[0])
        if net.settings.targets == "every":
            rows = net.logits(net.all_hidden_states(SEQUENCES, LENGTHS)[1])
            for place in range(3):
                expected = literal(net, histories[1][: place + 1])
                torch.testing.assert_close(rows[place, 1:], expected)

    if net.settings.targets == "every":
        loss = net.sequence_loss(SEQUENCES)
    elif net.settings.multi_target:
        loss = net.targets_loss(SEQUENCES, LENGTHS, torch.ones(3, dtype=torch.long))
    else:
        places = [(row, place) for row in range(3) for place in range(1, int(LENGTHS[row]))]
        items = torch.stack([SEQUENCES[row].clone() for row, _ in places])
        sizes = torch.tensor([place for _, place in places])
        loss = net.loss(items, sizes, items.gather(1, sizes.unsqueeze(1))[:, 0])
    terms = []
    for history in histories:
        for place in range(1, len(history)):
            row = literal(net, history[:place])
            terms.append(row.exp().sum().log() - row[history[place] - 1])
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(loss, expected)
    trained = [p for p in net.parameters() if p.requires_grad]
    own = torch.autograd.grad(loss, trained, allow_unused=True)
    other = torch.autograd.grad(expected, trained, allow_unused=True)
    for left, right in zip(own, other, strict=True):
        if left is None or right is None:
            assert left is right
        else:
            torch.testing.assert_close(left, right)


def test_the_weights_start_at_zero_draw_nothing_and_learn() -> None:
    plain = network(stage_scores=False)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    tables = {name: torch.randn(N + 1, d, dtype=torch.float64) for name, d in WIDTHS.items()}
    net = HeLLMNetwork(LLMSettings(**SMALL_NETWORK, stage_scores=True), tables).double().eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert plain.head.stages is None
    assert list(plain.head.state_dict()) == ["linear.weight"]
    with torch.no_grad():
        expected = plain.logits(plain.hidden_states(SEQUENCES, LENGTHS))
        torch.testing.assert_close(net.logits(net.hidden_states(SEQUENCES, LENGTHS)), expected)
    net.sequence_loss(SEQUENCES).backward()
    assert net.head.stages is not None
    for parameter in net.head.stages.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()
    groups = net.trainable_parameter_groups(0.1)
    last = net.head.stages.last
    assert [g["weight_decay"] for g in groups for p in g["params"] if p is last] == [0.0]


def test_an_empty_history_adds_nothing() -> None:
    table = torch.nn.Embedding.from_pretrained(torch.randn(N + 1, 2), padding_idx=0)
    table.weight[0] = 0
    stages = StageScores(1)
    for parameter in stages.parameters():
        torch.nn.init.ones_(parameter)
    assert (stages.queries([table], torch.tensor([[0]])) == 0).all()


def test_training_needs_are_known() -> None:
    device = torch.device("cpu")
    settings = LLMSettings(**SMALL_NETWORK)
    plain, scored = (
        requirements(outline(s, N, WIDTHS, device), 2, 4, 6, device)
        for s in (settings, settings.replace(stage_scores=True))
    )
    assert scored.parameters == plain.parameters + 4
    assert scored.forward >= plain.forward + 2 * 6 * sum(WIDTHS.values()) * N


def test_stage_scores_without_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stage_scores=True .* or leave out stage_scores"):
        LLMSettings(stage_scores=True, item_inputs=(), item_vectors=True, prefix="none")
