"""Portions of a loss sum to the loss, in value and gradient, for every model that several processes
share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from recbole_hellm import compat, recbole_models
from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.models.portions import WHOLE, Portion
from recbole_hellm.runs.opening import build_model
from recbole_hellm.training.batching import MicroBatcher
from recbole_hellm.training.sharing import data_parallel

OWN: list[tuple[str, dict[str, Any]]] = [
    ("HeLLMPre", {"contrast_anchors": 7}),
    ("HeLLMPre", {"contrast_anchors": 7, "contrast_denominator": "all"}),
    ("HeLLMPre", {"contrast": "all", "variant": "released"}),
    ("HeLLMPre-wo-CL", {}),
    ("LightGCN", {}),
    ("LightGCN", {"require_pow": True}),
    ("VBPR", {"reg_projection": 0.1}),
    ("GRCN", {}),
    ("LATTICE", {}),
    ("SLMRec", {}),
    ("SLMRec", {"ssl_weight": 0.0, "sampling": "users"}),
    ("BM3", {"dropout": 0.0, "reg_weight": 0.1}),
    ("FREEDOM", {}),
    ("BSARec", {}),
    ("WEARec", {}),
    ("SASRec", {"train_neg_sample_args": {"distribution": "uniform"}, "loss_type": "BPR"}),
]
RECBOLES: list[tuple[str, dict[str, Any]]] = [
    (name, {}) for name in sorted(recbole_models.DIVISIBLE)
]


@pytest.fixture
def exact() -> Iterator[None]:
    """Models and data in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                setattr(module, name, value.double())
            if isinstance(value, float) and (name == "p" or "drop" in name):
                setattr(module, name, 0.0)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def portion_sums(model: Any, config: Any, batch: Any, size: int) -> tuple[float, dict[str, Any]]:
    """Loss and gradients as `size` processes come to them, one after the other."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for rank in range(size):
        torch.manual_seed(5)  # portions of one loss draw the same anchors
        batcher = MicroBatcher(model, config, None, rank, size)
        ((rows, share),) = batcher.split(batch)
        if hasattr(model, "portion_loss"):
            assert rows is batch and share == 1
            loss = model.portion_loss(rows, Portion(rank, size))
        else:
            loss = model.calculate_loss(rows)
        (loss * share).sum().backward()
        total += loss.item() * share
    return total, gradients(model)


@pytest.mark.parametrize(
    ("name", "options"), OWN + RECBOLES, ids=[f"{name}-{len(o)}" for name, o in OWN + RECBOLES]
)
def test_portions_sum_to_the_loss_and_its_gradient(
    make_parts: Callable[..., Any], exact: None, name: str, options: dict[str, Any]
) -> None:
    compat.supply_dok_update()
    config, dataset, parts = make_parts(name, **options)
    assert data_parallel(config.entry)
    torch.manual_seed(1)
    model = build_model(config, parts[0]).double()
    without_dropout(model)
    batch = next(iter(training_loader(config, dataset, parts, model)))
    if hasattr(model, "start_epoch"):
        model.start_epoch()
    model.train()
    # More processes than rows, too.
    for rows, size in ((batch[:37], 2), (batch[:37], 3), (batch[:2], 3)):
        torch.manual_seed(5)
        model.zero_grad(set_to_none=True)
        whole = model.calculate_loss(rows)
        whole.sum().backward()
        expected = gradients(model)
        total, found = portion_sums(model, config, rows, size)
        # RecBole makes some float32 tensors, such as labels.
        close = 1e-6 if name in recbole_models.DIVISIBLE else 1e-12
        assert total == pytest.approx(whole.item(), rel=close)
        assert found.keys() == expected.keys()
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        for key, gradient in expected.items():
            assert float((found[key] - gradient).abs().max()) < close * largest, key


def test_portions_are_disjoint_and_whole() -> None:
    for count in (1, 2, 5, 12):
        for size in (1, 2, 3, 5):
            portions = [Portion(rank, size) for rank in range(size)]
            places = [
                place
                for portion in portions
                if portion.share(count)
                for place in range(count)[portion.slice(count)]
            ]
            assert places == list(range(count))
            assert sum(portion.share(count) for portion in portions) == pytest.approx(1)
            assert all(len(range(count)[portion.slice(count)]) >= 1 for portion in portions)
    rows = torch.arange(3)
    assert WHOLE.of(rows) is rows and WHOLE.weighted(rows, 3) is rows
    assert (Portion(0, 4).of(rows).tolist(), Portion(0, 4).share(3)) == ([0], 0)
