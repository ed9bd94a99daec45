"""Averages of weights against the sums that define them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from recbole_hellm import run
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.models.averaging import (
    EpochAverage,
    MovingAverage,
    WeightAverage,
    averaged_tensors,
    kept_copies,
    weight_average,
)

STEPS = 7


class Model(nn.Module):
    """Trained, frozen and derived numbers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.inner = nn.Linear(2, 2).double()
        self.inner.bias.requires_grad_(False)
        self.norm = nn.BatchNorm1d(2).double()
        self.tied = self.inner
        self.register_buffer("derived", torch.zeros(2), persistent=False)
        self.register_buffer("graph", torch.eye(2).to_sparse())


NAMES = {
    *("w", "inner.weight", "norm.weight", "norm.bias"),
    *("norm.running_mean", "norm.running_var"),
}


def steps(seed: int = 0) -> list[dict[str, Tensor]]:
    """Weights after each of some steps."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in averaged_tensors(Model()).items()}
    return [
        {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }
        for _ in range(STEPS)
    ]


@torch.no_grad()
def put(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, tensor in averaged_tensors(model).items():
        tensor.copy_(values[name])


def follow(average: WeightAverage, values: list[dict[str, Tensor]]) -> None:
    """Steps, two of which make an epoch."""
    for number, step in enumerate(values, start=1):
        put(average.model, step)
        average.after_step()
        if number % 2 == 0:
            average.after_epoch()


def moving(values: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """Every step with its share of the whole, written out."""
    decays = [0.0] + [min(decay, (1 + t) / (10 + t)) for t in range(1, len(values))]
    shares = [(1 - decays[t]) * math.prod(decays[t + 1 :]) for t in range(len(values))]
    assert sum(shares) == pytest.approx(1)
    return {
        name: sum(share * step[name] for share, step in zip(shares, values, strict=True))
        for name in values[0]
    }


def uniform(values: list[dict[str, Tensor]], epochs: int) -> dict[str, Tensor]:
    ends = values[1::2][-epochs:]
    return {name: sum(end[name] for end in ends) / len(ends) for name in values[0]}


KINDS: list[tuple[Callable[[nn.Module], WeightAverage], Callable[[Any], dict[str, Tensor]]]] = [
    (lambda model: MovingAverage(model, 0.9), lambda values: moving(values, 0.9)),
    (lambda model: MovingAverage(model, 0.2), lambda values: moving(values, 0.2)),
    (lambda model: EpochAverage(model, 2), lambda values: uniform(values, 2)),
    (lambda model: EpochAverage(model, 1), lambda values: uniform(values, 1)),
    (lambda model: EpochAverage(model, 9), lambda values: uniform(values, 9)),
]


def test_trained_parameters_and_saved_buffers_of_real_numbers_are_averaged() -> None:
    assert averaged_tensors(Model()).keys() == NAMES


@pytest.mark.parametrize(("build", "literal"), KINDS)
def test_the_average_stands_in_place_of_the_weights_within_the_block(
    build: Callable[..., WeightAverage], literal: Callable[..., dict[str, Tensor]]
) -> None:
    model, values = Model(), steps()
    averaged = NAMES | {"tied.weight"}
    others = {name: t for name, t in model.state_dict().items() if name not in averaged}
    before = copy.deepcopy(others)
    average = build(model)
    follow(average, values)
    addresses = {name: t.data_ptr() for name, t in averaged_tensors(model).items()}
    wanted = literal(values)
    for _ in range(2):  # a second look finds the same
        with average.in_place():
            for name, value in averaged_tensors(model).items():
                torch.testing.assert_close(value.detach(), wanted[name])
                assert value.data_ptr() == addresses[name]
        for name, value in averaged_tensors(model).items():
            assert torch.equal(value, values[-1][name])
    for name, value in others.items():
        assert torch.equal(value.to_dense(), before[name].to_dense())


@pytest.mark.parametrize(("build", "literal"), KINDS)
def test_an_error_in_the_block_leaves_the_weights_and_the_average_as_they_were(
    build: Callable[..., WeightAverage], literal: Callable[..., dict[str, Tensor]]
) -> None:
    model, values = Model(), steps()
    average = build(model)
    follow(average, values)
    with pytest.raises(KeyboardInterrupt), average.in_place():
        raise KeyboardInterrupt
    assert torch.equal(model.w, values[-1]["w"])
    with average.in_place():
        torch.testing.assert_close(model.w.detach(), literal(values)["w"])


@pytest.mark.parametrize(("build", "literal"), KINDS)
@pytest.mark.parametrize("cut", [0, 1, 2, 5])
def test_a_restored_average_goes_on_to_the_bit(
    build: Callable[..., WeightAverage], literal: Callable[..., dict[str, Tensor]], cut: int
) -> None:
    values = steps()
    cut -= cut % 2  # checkpoints are written at the ends of epochs
    whole, first, second = (build(Model()) for _ in range(3))
    follow(whole, values)
    follow(first, values[:cut])
    state = copy.deepcopy(first.state_dict())
    follow(second, steps(seed=1))  # forgotten by loading
    second.load_state_dict(state)
    follow(second, values[cut:])
    with whole.in_place(), second.in_place():
        for name, value in averaged_tensors(whole.model).items():
            assert torch.equal(value, averaged_tensors(second.model)[name])
    torch.testing.assert_close(_value(second), literal(values)["w"])


def _value(average: WeightAverage) -> Tensor:
    with average.in_place():
        return average.model.w.detach().clone()  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(("build", "literal"), KINDS)
def test_another_models_average_is_refused(
    build: Callable[..., WeightAverage], literal: Callable[..., dict[str, Tensor]]
) -> None:
    average = build(Model())
    follow(average, steps())
    with pytest.raises(KeyError):
        build(nn.Linear(2, 3)).load_state_dict(average.state_dict())


def test_a_long_training_reaches_the_decay_and_a_short_one_forgets_its_first_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.999)
    for step in range(1, 401):
        nn.init.constant_(model.weight, 1.0 if step == 1 else 0.0)
        average.after_step()
    with average.in_place():
        assert float(model.weight.detach()) < 1e-9  # a share of .67 without the smaller decays
    for _ in range(20_000):
        average.after_step()
    nn.init.constant_(model.weight, 1.0)
    average.after_step()
    with average.in_place():
        assert float(model.weight.detach()) == pytest.approx(0.001, rel=1e-3)


def test_before_the_first_weights_there_is_no_average() -> None:
    model = Model()
    for average in (MovingAverage(model, 0.9), EpochAverage(model, 2), WeightAverage(model)):
        with average.in_place():
            assert not model.w.any()


@pytest.mark.parametrize("kind", ["ema", "last"])
def test_a_model_without_weights_has_no_average(kind: str) -> None:
    average = weight_average(TrainingSettings(weight_averaging=kind), nn.Module())
    for _ in range(3):
        average.after_step()
        average.after_epoch()
    assert average.state_dict() == {}
    average.load_state_dict({})
    with average.in_place():
        pass


@pytest.mark.parametrize(
    ("options", "kind", "copies"),
    [
        ({}, WeightAverage, 0),
        ({"weight_averaging": "ema", "ema_decay": 0.2}, MovingAverage, 1),
        ({"weight_averaging": "last", "averaged_epochs": 3}, EpochAverage, 3),
    ],
)
def test_the_settings_name_the_average(
    options: dict[str, Any], kind: type[WeightAverage], copies: int
) -> None:
    settings = TrainingSettings(**options)
    average = weight_average(settings, Model())
    assert type(average) is kind
    assert kept_copies(settings) == copies
    follow(average, steps())
    state = average.state_dict()
    kept = [state["weights"]] if "weights" in state else state.get("epochs", [])
    assert len(kept) == copies
    assert all(weights.keys() == NAMES for weights in kept)
    if kind is MovingAverage:
        torch.testing.assert_close(_value(average), moving(steps(), 0.2)["w"])


@pytest.mark.parametrize(
    "averaging",
    [{"weight_averaging": "last", "averaged_epochs": 2}, {"weight_averaging": "ema"}],
    ids=["last", "ema"],
)
def test_a_run_is_scored_saved_and_restored_with_the_average(
    quick: dict[str, Any], averaging: dict[str, Any]
) -> None:
    sizes = {"hidden_size": 8, "inner_size": 8, "MAX_ITEM_LIST_LENGTH": 6}
    options = quick | sizes | averaging | {"epochs": 3, "first_item_target": True}
    result = run("SASRec", "tiny", **options)
    best, last = (
        torch.load(result.path / f"{name}.pt", weights_only=True) for name in ("best", "last")
    )
    table = best["model"]["item_embedding.weight"]
    assert not torch.equal(table, last["model"]["item_embedding.weight"])
    if "averaged_epochs" in averaging and result.record["best_epoch"] == 3:
        ends = [end["item_embedding.weight"] for end in last["average"]["epochs"]]
        torch.testing.assert_close(table, (ends[0] + ends[1]) / 2)
    stored = load_file(result.path / "embeddings.safetensors")["item"]
    assert torch.equal(stored, table[1:])
    for masking, metrics in result.evaluate("test").items():
        assert metrics == pytest.approx(result.record["test"][masking], abs=1e-12)
