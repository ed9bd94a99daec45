from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recbole_hellm.models.llm.inference_cache import InferenceCache


class _Doubled(InferenceCache):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.computed = 0

    def value(self) -> Tensor:
        kept = self.kept()
        if kept is not None and "value" in kept:
            return kept["value"]
        self.computed += 1
        value = 2 * self.weight
        if kept is not None:
            kept["value"] = value
        return value


@torch.no_grad()
def test_a_value_is_computed_once_while_nothing_changes() -> None:
    module = _Doubled().eval()
    assert module.value() is module.value()
    assert module.computed == 1


@torch.no_grad()
def test_a_changed_buffer_empties_the_cache() -> None:
    module = _Doubled().eval()
    module.register_buffer("factor", torch.ones(2))
    module.value()
    module.get_buffer("factor").fill_(3)
    module.value()
    assert module.computed == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.weight.fill_(3),
        lambda module: module.load_state_dict({"weight": torch.full((2,), 3.0)}),
        lambda module: module.load_state_dict({"weight": torch.full((2,), 3.0)}, assign=True),
    ],
    ids=["in place", "loaded", "assigned"],
)
@torch.no_grad()
def test_a_changed_weight_empties_the_cache(change: Callable[[_Doubled], object]) -> None:
    module = _Doubled().eval()
    module.value()
    change(module)
    assert module.value().tolist() == [6, 6]


def test_nothing_is_kept_where_gradients_are_recorded_or_in_training() -> None:
    module = _Doubled().eval()
    module.value()
    assert module.value().requires_grad
    module.train()
    with torch.no_grad():
        module.value()
        module.value()
    assert module.computed == 4
    with torch.inference_mode():
        module.eval().value()
    assert module.kept() is None


@torch.no_grad()
def test_switching_modes_empties_the_cache() -> None:
    module = _Doubled().eval()
    first = module.value()
    assert module.train().eval().value() is not first


@torch.no_grad()
def test_moves_and_casts_empty_the_cache() -> None:
    module = _Doubled().eval()
    first = module.value()
    assert module.to(torch.float32).value() is not first
    module.weight.fill_(1 + 2**-12)
    module.value()
    assert module.half().float().value().tolist() == [2, 2]
