from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

from recbole_hellm.training import random_state


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
