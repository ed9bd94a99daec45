"""Values of users: their means over seeds, and how far a mean over users can be trusted."""

from __future__ import annotations

import numpy as np

from recbole_hellm.errors import ConfigError, DataError

DECIMALS = 12  # of differences: means over seeds in another order must not differ by rounding
_CELLS = 1 << 20  # resampled users that are held at a time


def user_means(values: np.ndarray) -> np.ndarray:
    """Each user's mean over seeds, float64, shape [U].

    Parameters
    ----------
    values : ndarray, shape [U] or [S, U]

    Raises
    ------
    DataError
        If there are fewer than two users, or a value is not finite.
    """
    return by_seed(values).mean(axis=0)


def seed_deviation(values: np.ndarray) -> float:
    """Standard deviation of a metric over seeds, shape [S]; NaN with a single seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def bootstrap_interval(
    differences: np.ndarray, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    r"""Percentile bootstrap interval of a mean over users.

    Most users have the same value, often no difference at all. A resample therefore draws the
    number of other users, which is binomial, and then these users. The distribution is that of
    drawing U users with replacement (Efron 1979); it is faster and does not depend on their order.

    Parameters
    ----------
    differences : ndarray, shape [U]
    level : float
        Between 0 and 1.
    resamples, seed : int

    Raises
    ------
    ConfigError
        If `level` or `resamples` is out of range.
    DataError
        If there are fewer than two users, or a value is not finite.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ConfigError(
            f"An interval of level={level} from resamples={resamples} cannot be had; level is "
            "between 0 and 1, resamples at least 1."
        )
    every = np.sort(user_means(differences).round(DECIMALS))
    values, counts = np.unique(every, return_counts=True)
    common = values[counts.argmax()]
    others = every[every != common] - common
    if len(others) == 0:
        return float(common), float(common)
    generator = np.random.default_rng(seed)
    drawn = generator.binomial(len(every), len(others) / len(every), size=resamples)
    step = max(1, _CELLS // len(others))
    sums = []
    for start in range(0, resamples, step):
        numbers = drawn[start : start + step]
        chosen = others[generator.integers(len(others), size=numbers.sum())]
        # The zero at the end is where a last resample without other users begins.
        begins = np.cumsum(numbers) - numbers
        part = np.add.reduceat(np.append(chosen, 0.0), begins)
        sums.append(np.where(numbers == 0, 0.0, part))
    means = common + np.concatenate(sums) / len(every)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Interval of one method's mean, `values` [U] or [S, U]; see :func:`bootstrap_interval`."""
    return bootstrap_interval(user_means(values), level, resamples, seed)


def by_seed(values: np.ndarray) -> np.ndarray:
    """Values as float64 [S, U], checked."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise DataError(
            f"Statistics over users need values of shape [users] or [seeds, users] for two users "
            f"or more, not {np.shape(values)}."
        )
    if not np.isfinite(table).all():
        raise DataError("Statistics over users need finite values, and some are not.")
    return table
