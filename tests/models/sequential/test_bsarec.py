from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sequential import embedded, gelu, norm
from torch import Tensor

from recbole_hellm import run
from recbole_hellm.models.sequential.bsarec import (
    BSARec,
    BSARecLayer,
    BSARecSettings,
    FrequencyRescaler,
)

SMALL = {"hidden_size": 4, "inner_size": 6, "n_heads": 2, "n_layers": 2}


@pytest.fixture
def make(make_parts: Callable[..., Any]) -> Callable[..., BSARec]:
    def build(**options: Any) -> BSARec:
        config, _, parts = make_parts("BSARec", **SMALL | {"MAX_ITEM_LIST_LENGTH": 6} | options)
        torch.set_default_dtype(torch.float64)
        try:
            torch.manual_seed(2)
            model = BSARec(config, parts[0]).eval()
        finally:
            torch.set_default_dtype(torch.float32)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        return model

    return build


# The paper's equations, number by number ----------------------------------------------------------


def low_frequencies(series: list[float], kept: int) -> list[float]:
    """Discrete Fourier transform, frequencies from `kept` on left out, and back."""
    size = len(series)
    spectrum = [
        sum(x * cmath.exp(-2j * math.pi * k * n / size) for n, x in enumerate(series))
        for k in range(size)
    ]
    low = [k for k in range(size) if min(k, size - k) < kept]
    return [
        sum((spectrum[k] * cmath.exp(2j * math.pi * k * n / size)).real for k in low) / size
        for n in range(size)
    ]


def literal_filter(layer: FrequencyRescaler, states: Tensor, kept: int) -> Tensor:
    columns = [low_frequencies(column.tolist(), kept) for column in states.T]
    low = torch.tensor(columns, dtype=torch.float64).T
    mixed = low + layer.root_beta**2 * (states - low)
    return torch.stack([norm(row, layer.norm) for row in mixed + states])


def literal_attention(layer: Any, states: Tensor, items: list[int], heads: int) -> Tensor:
    size, width = len(items), states.shape[1] // heads
    query, key, value = (part(states) for part in (layer.query, layer.key, layer.value))
    rows = []
    for place in range(size):
        parts = []
        for head in range(heads):
            channels = slice(head * width, (head + 1) * width)
            scores = []
            for other in range(size):
                score = query[place, channels] @ key[other, channels] / math.sqrt(width)
                hidden = other > place or items[other] == 0
                scores.append(score + (-10000.0 if hidden else 0.0))
            weights = torch.stack(scores).softmax(0)
            parts.append(sum(w * value[n, channels] for n, w in enumerate(weights)))
        rows.append(norm(layer.dense(torch.cat(parts)) + states[place], layer.LayerNorm))
    return torch.stack(rows)


def literal(model: BSARec, history: list[int]) -> Tensor:
    s = model.settings
    items, states = embedded(model, history)
    for layer in model.layers:
        filtered = literal_filter(layer.filter, states, s.cutoff // 2 + 1)
        attended = literal_attention(layer.attention, states, items, s.n_heads)
        mixed = s.alpha * filtered + (1 - s.alpha) * attended
        ffn = layer.feed_forward
        outer = ffn.dense_2(gelu(ffn.dense_1(mixed)))
        states = torch.stack([norm(row, ffn.LayerNorm) for row in outer + mixed])
    return states[-1]


@pytest.mark.parametrize("options", [{}, {"cutoff": 1, "alpha": 0.2}, {"cutoff": 9}])
@pytest.mark.parametrize("places", [5, 6])
def test_states_are_those_of_the_equations(
    make: Callable[..., BSARec], options: dict[str, Any], places: int
) -> None:
    model = make(**options, MAX_ITEM_LIST_LENGTH=places)
    histories = [[3, 1, 4, 1, 5], [9], [2, 6], []]
    rows = torch.tensor([history + [0] * (5 - len(history)) for history in histories])
    with torch.no_grad():
        states = model(rows, torch.tensor([5, 1, 2, 1]))  # an empty one is one item of padding
        expected = torch.stack([literal(model, history) for history in histories])
    torch.testing.assert_close(states, expected)


def test_defaults_have_the_parameters_of_the_authors_log() -> None:
    """878,208 on Beauty, with 12,102 items (padding included) and 50 places."""
    settings = BSARecSettings()
    layer = sum(p.numel() for p in BSARecLayer(50, settings).parameters())
    embeddings = (12_102 + 50) * settings.hidden_size + 2 * settings.hidden_size
    assert embeddings + settings.n_layers * layer == 878_208


def test_every_parameter_learns(make: Callable[..., BSARec]) -> None:
    model = make().train()
    model(torch.tensor([[3, 1, 4], [2, 6, 0]]), torch.tensor([3, 2])).square().sum().backward()
    idle = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()
    ]
    # A shift of all keys changes no weight of a softmax.
    assert [name for name in idle if not name.endswith("attention.key.bias")] == []


def test_it_runs_alone_and_as_a_stage(quick: dict[str, Any], small_model: dict[str, Any]) -> None:
    options = quick | {"MAX_ITEM_LIST_LENGTH": 6, "epochs": 1}
    alone = run("BSARec", "tiny", **options, **SMALL)
    assert 0 <= alone.metrics("test")["ndcg@10"] <= 1
    sizes = {k: v for k, v in small_model.items() if not k.startswith("SASRec.")}
    stage = {f"BSARec.{key}": value for key, value in SMALL.items()}
    chosen = {"sequence_model": "BSARec", "sequence_dim": SMALL["hidden_size"]}
    above = run("HeLLM", "tiny", **options | sizes | stage | chosen)
    assert "BSARec" in {one.record["model"] for one in above.stages}
