from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
import torch

from recbole_hellm.training import random_state
from recbole_hellm.training.distributed import Processes


def draw() -> list[float]:
    return [
        random.random(),  # noqa: S311
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
        float(torch.randn(())),
    ]


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1)  # leaves half of a pair behind, as numpy's and torch's normals do
    np.random.randn()
    torch.randn(())


def test_restored_generators_go_on_as_they_would_have() -> None:
    state = random_state.capture()
    wanted = [draw() for _ in range(3)]
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(99)
    assert draw() != wanted[0]
    random_state.restore(state)
    assert [draw() for _ in range(3)] == wanted


def test_capturing_draws_nothing() -> None:
    state = random_state.capture()
    first = draw()
    random_state.restore(state)
    random_state.capture()
    assert draw() == first


def test_state_survives_a_safe_checkpoint() -> None:
    file = io.BytesIO()
    torch.save(random_state.capture(), file)
    wanted = draw()
    file.seek(0)
    random_state.restore(torch.load(file, weights_only=True))
    assert draw() == wanted


def test_processes_draw_alike_and_go_on_with_their_own_numbers() -> None:
    own = torch.get_rng_state()
    first = torch.Generator().manual_seed(8)
    expected, state = torch.rand(3, generator=torch.Generator().manual_seed(8)), first.get_state()

    class Second(Processes):
        def broadcast(self, value: Any) -> Any:
            return [state]

    with random_state.drawn_alike(Second(1, 2)):
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.get_rng_state(), own)
    torch.set_rng_state(state)  # as the first process: both go on alike
    with random_state.drawn_alike(Second(1, 2)):
        torch.rand(3)
    assert not torch.equal(torch.get_rng_state(), state)
