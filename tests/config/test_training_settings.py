from __future__ import annotations

import math
from typing import Any

import pytest

from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.errors import ConfigError


def test_no_schedule_leaves_the_rate_alone() -> None:
    settings = TrainingSettings()
    assert [settings.factor(step, 10) for step in (0, 5, 999)] == [1.0, 1.0, 1.0]


def test_exponential_steps_once_an_epoch() -> None:
    settings = TrainingSettings(scheduler="exponential", scheduler_decay=0.96, scheduler_every=50)
    for epoch in (0, 1, 7, 50, 120):
        for step in (0, 1, 9):
            factor = settings.factor(epoch * 10 + step, 10)
            assert factor == pytest.approx(0.96 ** (epoch / 50), rel=1e-12)


def test_cosine_warms_up_and_ends_at_the_minimum() -> None:
    settings = TrainingSettings(
        scheduler="cosine",
        epochs=10,
        warmup_epochs=2.0,
        learning_rate=1e-2,
        learning_rate_min=1e-4,
    )
    steps = 5
    factors = [settings.factor(step, steps) for step in range(10 * steps)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    for step in range(10, 50):
        progress = (step / steps - 2) / 8
        wanted = 1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi * progress)) / 2
        assert 1e-2 * factors[step] == pytest.approx(wanted, rel=1e-12)
    assert 1e-2 * settings.factor(50, steps) == pytest.approx(1e-4)
    assert 1e-2 * settings.factor(500, steps) == pytest.approx(1e-4)


def test_cosine_without_warm_up_starts_at_the_full_rate() -> None:
    settings = TrainingSettings(scheduler="cosine", epochs=4, warmup_epochs=0.0)
    assert settings.factor(0, 3) == 1.0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"eval_step": 0}, "eval_step=0 must be at least 1"),
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be positive"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be a number"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 must not be negative"),
        ({"stopping_step": -1}, "stopping_step=-1 must not be negative"),
        ({"learner": "adamm"}, "learner='adamm' is not known; use one of adam, adamw"),
        ({"betas": [0.9]}, "betas=\\[0.9\\] must be two numbers"),
        ({"betas": [0.9, 1.0]}, "must be two numbers from 0 to below 1"),
        ({"scheduler": "linear"}, "use one of none, exponential, cosine"),
        ({"scheduler_every": 0.0}, "scheduler_every=0.0 must be positive"),
        ({"weight_averaging": "mean"}, "is not allowed; use one of none, ema, last"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 must be below 1"),
        ({"averaged_epochs": 0}, "averaged_epochs=0 must be at least 1"),
        ({"clip_grad_norm": 1.0}, "clip_grad_norm=1.0 must be a mapping"),
        ({"clip_grad_norm": {"max": 1.0}}, "lacks max_norm"),
        ({"clip_grad_norm": {"max_norm": "x"}}, "must give numbers for max_norm"),
        ({"clip_grad_norm": {"max_norm": 1, "norm": 2}}, "must give numbers for max_norm"),
    ],
)
def test_wrong_values_are_told(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TrainingSettings(**values)


def test_learners_are_known_in_any_case() -> None:
    assert TrainingSettings(learner="AdamW").learner == "AdamW"
