"""Which of every user's interactions are held out for validation and test.

Within a user, training comes first, then validation, then test. So a split is two numbers a user:
how many interactions stand before the validation part, and how many before the test part.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import numpy as np
import pandas as pd

from recbole_hellm.data.preparation.table_times import SHORT, unit_of
from recbole_hellm.errors import DataError

MIN_INTERACTIONS = 3
"""Under leave-one-out, users with fewer interactions are trained on and never evaluated."""


def leave_one_out(lengths: np.ndarray) -> np.ndarray:
    """The last interaction is the test part, the one before it the validation part.

    Parameters
    ----------
    lengths : ndarray of int64, shape [U]
        Interactions of each user.

    Returns
    -------
    ndarray of int64, shape [2, U]
        Interactions before the validation part and before the test part; all of them for a user
        without such a part.
    """
    held = np.array([[2], [1]])
    return np.where(lengths >= MIN_INTERACTIONS, lengths - held, lengths)


def by_ratio(lengths: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Shares of each user's interactions, rounded as RecBole rounds them.

    Validation and test are rounded down. Where one would come to less than a whole interaction it
    gets one, test first, as long as more than one is left for training.

    Parameters
    ----------
    lengths : ndarray of int64, shape [U]
    ratios : sequence of float
        Of training, validation and test, in any scale.

    Returns
    -------
    ndarray of int64, shape [2, U]
        As :func:`leave_one_out`.
    """
    # RecBole's own steps (dataset.py:1612), with its rounding of floats, for all users at once.
    _, valid_share, test_share = (ratio / sum(ratios) for ratio in ratios)
    valid, test = ((share * lengths).astype(np.int64) for share in (valid_share, test_share))
    training = lengths - valid - test
    # RecBole stops at the first part for which nothing is left; training only ever decreases.
    for part, share in ((test, test_share), (valid, valid_share)):
        more = (training > 1) & (share * lengths > 0) & (share * lengths < 1)
        part += more
        training -= more
    return np.stack([training, training + valid])


def by_time(
    times: np.ndarray, users: np.ndarray, n_users: int, points: Sequence[float]
) -> np.ndarray:
    """Everything from a point in time on is held out, for all users alike.

    Parameters
    ----------
    times : ndarray, shape [n_interactions]
    users : ndarray of int64, shape [n_interactions]
        User ids below `n_users`.
    n_users : int
    points : sequence of two numbers
        The times at which validation and test begin.

    Returns
    -------
    ndarray of int64, shape [2, n_users]
        As :func:`leave_one_out`. A user may have no interaction before a point, or none after it.
    """
    return np.stack([np.bincount(users[times < point], minlength=n_users) for point in points])


def point_in_time(times: np.ndarray, point: float | str, name: str) -> float:
    """The time that a share of all interactions or a date stands for.

    Parameters
    ----------
    times : ndarray, shape [n_interactions]
        Unix times of all interactions, or any other numbers for shares.
    point : float or str
        A share q: the time of the interaction at place :math:`q n`, counted from 0 in order of
        time, so that at most so many come before it. Or a date in ISO 8601, of UTC where it says no
        other zone.
    name : str
        Of the dataset, for messages.

    Raises
    ------
    DataError
        If a date is given, and the times are no Unix times.
    """
    if not isinstance(point, str):
        place = min(round(point * len(times)), len(times) - 1)
        return np.partition(times, place)[place].item()
    unit = unit_of(float(times.max()))
    if unit is None:
        raise DataError(
            f"split_points holds the date {point}, and the times of '{name}' are no Unix times "
            f"(the last is {times.max():g}); give shares such as '[0.8, 0.9]'."
        )
    moment = datetime.datetime.fromisoformat(point)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp() * {"s": 1, "ms": 1e3, "us": 1e6}[SHORT[unit]]


def written(moment: float) -> str | float:
    """A Unix time as a date and time of UTC; any other number as it is."""
    unit = unit_of(moment)
    return moment if unit is None else pd.Timestamp(moment, unit=SHORT[unit]).isoformat()


def random_order(users: np.ndarray, seed: int) -> np.ndarray:
    """A random order of each user's rows; users keep their order.

    Parameters
    ----------
    users : ndarray, shape [n_interactions]
        Owner of each row, equal ones beside each other.
    seed : int

    Returns
    -------
    ndarray of int64, shape [n_interactions]
        Row numbers in the new order.
    """
    owners = np.cumsum(np.r_[False, users[1:] != users[:-1]]) if len(users) else users
    return np.lexsort((np.random.default_rng(seed).random(len(users)), owners))
