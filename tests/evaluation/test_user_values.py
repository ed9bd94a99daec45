"""Means of users and their intervals against scipy, and against every resample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.evaluation import user_values
from recbole_hellm.evaluation.user_values import (
    bootstrap_interval,
    mean_interval,
    seed_deviation,
    user_means,
)


@pytest.fixture(scope="module")
def differences() -> np.ndarray:
    """Values of 60 users, most of whom have none."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(60) < 0.6, 0.0, rng.normal(0.1, 0.3, 60))


def test_a_user_has_the_mean_over_seeds() -> None:
    values = np.random.default_rng(1).random((3, 20))
    assert user_means(values) == pytest.approx(values.mean(0))
    assert user_means(values[0]) == pytest.approx(values[0])


def test_one_seed_has_no_deviation() -> None:
    assert seed_deviation(np.array([0.1, 0.2, 0.6])) == pytest.approx(math.sqrt(0.07))
    assert math.isnan(seed_deviation(np.array([0.1])))


def test_bootstrap_is_near_all_resamples() -> None:
    values = np.array([0.0, 0.0, 0.5, 1.0, 0.0])
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=5)]
    for level in (0.5, 0.9):
        wanted = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        assert bootstrap_interval(values, level, 20_000) == pytest.approx(wanted, abs=1e-12)


def test_bootstrap_is_that_of_scipy(differences: np.ndarray) -> None:
    wanted = stats.bootstrap(
        (differences,), np.mean, n_resamples=20_000, method="percentile", random_state=0
    ).confidence_interval
    width = wanted.high - wanted.low
    interval = bootstrap_interval(differences, resamples=20_000)
    assert interval == pytest.approx((wanted.low, wanted.high), abs=0.02 * width)


def test_bootstrap_of_many_users_is_normal(differences: np.ndarray) -> None:
    values = np.tile(differences, 40)
    error = values.std() / math.sqrt(len(values))
    wanted = values.mean() + np.array([-1, 1]) * stats.norm.ppf(0.975) * error
    assert mean_interval(values) == pytest.approx(wanted, abs=0.1 * error)
    assert mean_interval(np.stack([values, values])) == mean_interval(values)


def test_bootstrap_depends_on_values_and_seed_alone(
    differences: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = differences
    whole = bootstrap_interval(values, resamples=1000)
    assert bootstrap_interval(values[::-1], resamples=1000) == whole
    assert bootstrap_interval(values, resamples=1000, seed=1) != whole
    monkeypatch.setattr(user_values, "_CELLS", 700)
    assert bootstrap_interval(values, resamples=1000) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: user_means(np.array([1.0, math.nan])), DataError, "finite"),
        (lambda: user_means(np.ones(1)), DataError, r"not \(1,\)"),
        (lambda: bootstrap_interval(np.ones(3), level=95), ConfigError, "level=95"),
        (lambda: bootstrap_interval(np.ones(3), resamples=0), ConfigError, "resamples=0"),
    ],
)
def test_mistakes(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
