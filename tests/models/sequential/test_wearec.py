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
from recbole_hellm.models.sequential.wearec import FilteredLayer, WEARec

SMALL = {"hidden_size": 4, "inner_size": 6, "n_heads": 2, "n_layers": 2}


@pytest.fixture
def make(make_parts: Callable[..., Any]) -> Callable[..., WEARec]:
    def build(**options: Any) -> WEARec:
        config, _, parts = make_parts("WEARec", **SMALL | {"MAX_ITEM_LIST_LENGTH": 6} | options)
        torch.manual_seed(2)
        model = WEARec(config, parts[0]).double().eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        return model

    return build


# The paper's equations, number by number ----------------------------------------------------------


def filtered(series: list[float], scale: list[float], bias: list[float]) -> list[float]:
    """Unitary discrete Fourier transform, w X + b for each frequency, and back.

    Frequencies above the half are the conjugates of those below it; so a real bias is there, too.
    """
    size = len(series)
    output = [0.0] * size
    for k in range(size):
        spectrum = sum(x * cmath.exp(-2j * math.pi * k * n / size) for n, x in enumerate(series))
        at = min(k, size - k)
        changed = spectrum / math.sqrt(size) * scale[at] + bias[at]
        for n in range(size):
            value = changed * cmath.exp(2j * math.pi * k * n / size) / math.sqrt(size)
            output[n] += value.real
    return output


def haar(series: list[float], factors: list[float]) -> list[float]:
    output = list(series)
    for t in range(len(series) // 2):
        first, second = series[2 * t], series[2 * t + 1]
        mean, detail = (first + second) / 2, factors[t] * (first - second) / 2
        output[2 * t], output[2 * t + 1] = mean + detail, mean - detail
    return output


def literal_layer(layer: FilteredLayer, states: Tensor, alpha: float, heads: int) -> Tensor:
    places, size = states.shape
    bins, width = places // 2 + 1, size // heads
    hidden = gelu(layer.adapt[0](states.mean(0)))
    change = layer.adapt[2](hidden).reshape(heads, bins, 2)
    mixed = torch.zeros_like(states)
    for channel in range(size):
        head, inner = divmod(channel, width)
        scale = [float(layer.scale[head, k, 0] * (1 + change[head, k, 0])) for k in range(bins)]
        bias = [float(layer.bias[head, k, 0] + change[head, k, 1]) for k in range(bins)]
        series = states[:, channel].tolist()
        far = torch.tensor(filtered(series, scale, bias), dtype=torch.float64)
        near = haar(series, layer.details[head, :, inner].tolist())
        mixed[:, channel] = alpha * far + (1 - alpha) * torch.tensor(near, dtype=torch.float64)
    between = torch.stack([norm(row, layer.norm) for row in mixed + states])
    ffn = layer.feed_forward
    outer = ffn.dense_2(gelu(ffn.dense_1(between)))
    return torch.stack([norm(row, ffn.LayerNorm) for row in outer + between])


def literal(model: WEARec, history: list[int]) -> Tensor:
    _, states = embedded(model, history)
    for layer in model.layers:
        states = literal_layer(layer, states, model.settings.alpha, model.settings.n_heads)
    return states[-1]


@pytest.mark.parametrize("options", [{}, {"alpha": 0.9, "n_heads": 1}])
@pytest.mark.parametrize("places", [5, 6])
def test_states_are_those_of_the_equations(
    make: Callable[..., WEARec], options: dict[str, Any], places: int
) -> None:
    model = make(**options, MAX_ITEM_LIST_LENGTH=places)
    histories = [[3, 1, 4, 1, 5], [9], [2, 6], []]
    rows = torch.tensor([history + [0] * (5 - len(history)) for history in histories])
    with torch.no_grad():
        states = model(rows, torch.tensor([5, 1, 2, 1]))  # an empty one is one item of padding
        expected = torch.stack([literal(model, history) for history in histories])
    torch.testing.assert_close(states, expected)


def test_every_parameter_learns(make: Callable[..., WEARec]) -> None:
    model = make().train()
    model(torch.tensor([[3, 1, 4], [2, 6, 0]]), torch.tensor([3, 2])).square().sum().backward()
    idle = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()
    ]
    assert idle == []


def test_it_runs_alone_and_as_a_stage(quick: dict[str, Any], small_model: dict[str, Any]) -> None:
    options = quick | {"MAX_ITEM_LIST_LENGTH": 6, "epochs": 1}
    alone = run("WEARec", "tiny", **options, **SMALL)
    assert 0 <= alone.metrics("test")["ndcg@10"] <= 1
    sizes = {k: v for k, v in small_model.items() if not k.startswith("SASRec.")}
    stage = {f"WEARec.{key}": value for key, value in SMALL.items()}
    chosen = {"sequence_model": "WEARec", "sequence_dim": SMALL["hidden_size"]}
    above = run("HeLLM", "tiny", **options | sizes | stage | chosen)
    assert "WEARec" in {one.record["model"] for one in above.stages}
