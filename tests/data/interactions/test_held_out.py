"""What is held out, against RecBole's own split and against loops."""

from __future__ import annotations

import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from recbole.data.dataset import Dataset

from recbole_hellm.data.interactions.held_out import (
    by_ratio,
    by_time,
    leave_one_out,
    point_in_time,
    random_order,
    written,
)
from recbole_hellm.errors import DataError


def test_leave_one_out_needs_three_interactions() -> None:
    found = leave_one_out(np.array([0, 1, 2, 3, 9]))
    assert found.tolist() == [[0, 1, 2, 1, 7], [0, 1, 2, 2, 8]]


@pytest.mark.parametrize("ratios", [(8, 1, 1), (0.7, 0.1, 0.2), (1, 1, 1), (0.98, 0.01, 0.01)])
def test_ratios_are_rounded_as_recbole_rounds_them(ratios: tuple[float, float, float]) -> None:
    lengths = np.arange(1, 500)
    found = by_ratio(lengths, ratios)
    shares = [ratio / sum(ratios) for ratio in ratios]
    for length, bounds in zip(lengths.tolist(), found.T.tolist(), strict=True):
        theirs = Dataset._calcu_split_ids(SimpleNamespace(), length, shares)
        assert bounds == [int(bound) for bound in theirs], length


def test_eight_to_one_to_one_by_hand() -> None:
    found = by_ratio(np.array([0, 1, 2, 3, 10, 25]), (8, 1, 1))
    assert found.tolist() == [[0, 1, 1, 1, 8, 21], [0, 1, 1, 2, 9, 23]]


def test_a_point_in_time_is_the_same_for_all_users() -> None:
    users = np.array([1, 1, 1, 2, 2, 3, 3])
    times = np.array([1, 5, 9, 5, 6, 1, 2])
    found = by_time(times, users, 5, (5, 9))
    assert found.tolist() == [[0, 1, 0, 2, 0], [0, 2, 2, 2, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_a_share_is_the_time_of_the_interaction_at_that_place(seed: int) -> None:
    times = np.random.default_rng(seed).integers(0, 40, 100)  # many ties
    for percent in range(1, 100):
        point = point_in_time(times, percent / 100, "tiny")
        assert point == sorted(times.tolist())[percent]
        before = sum(time < point for time in times)
        assert before <= percent < sum(time <= point for time in times)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_dates_are_those_of_utc_in_any_unit(unit: str, factor: int) -> None:
    moment = datetime.datetime(2014, 7, 1, tzinfo=datetime.timezone.utc).timestamp()
    times = np.array([moment - 86_400, moment, moment + 86_400]) * factor
    assert point_in_time(times, "2014-07-01", "tiny") == moment * factor
    assert point_in_time(times, "2014-07-01T02:00:00+02:00", "tiny") == moment * factor
    assert written(moment * factor) == "2014-07-01T00:00:00"


def test_dates_need_unix_times() -> None:
    with pytest.raises(
        DataError, match=r"the times of 'tiny' are no Unix times \(the last is 12\)"
    ):
        point_in_time(np.arange(13), "2014-07-01", "tiny")
    assert written(12) == 12


def test_a_random_order_is_one_of_each_users_rows() -> None:
    users = np.repeat(np.array(["b", "a", "c"], dtype=object), [5, 1, 60])
    order = random_order(users, 3)
    assert users[order].tolist() == users.tolist()
    assert sorted(order.tolist()) == [*range(66)]
    assert order[6:].tolist() != [*range(6, 66)]
    assert order.tolist() == random_order(users, 3).tolist() != random_order(users, 4).tolist()
    firsts = [int(random_order(users, seed)[0]) for seed in range(500)]
    assert np.bincount(firsts).min() > 60  # of 100 expected each
