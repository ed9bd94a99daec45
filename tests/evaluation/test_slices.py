from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.errors import DataError
from recbole_hellm.evaluation.metrics import MetricSet
from recbole_hellm.evaluation.rank_metrics import NDCG
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.slices import (
    UserSlices,
    by_history_length,
    by_target_popularity,
    by_target_ties,
    by_target_warmth,
    means_by_slice,
    metrics_by_slice,
)

Parts = Callable[..., tuple[Any, Any, list[Any]]]
USERS = 300


def random_ranks(seed: int) -> Ranks:
    rng = np.random.default_rng(seed)
    higher, tied = rng.integers(0, 30, USERS), rng.integers(0, 3, USERS)
    return Ranks(np.arange(USERS), higher, tied, np.full(USERS, 50))


@pytest.fixture(scope="module")
def slices() -> UserSlices:
    rng = np.random.default_rng(0)
    counts = np.r_[0, 0, rng.integers(0, 40, 49)]
    targets = rng.integers(1, 51, USERS)
    return UserSlices(
        np.arange(USERS),
        {
            "history_length": by_history_length(rng.integers(1, 40, USERS)),
            "target_popularity": by_target_popularity(targets, counts),
            "target_warmth": by_target_warmth(targets, counts),
            "target_ties": by_target_ties(rng.random(USERS) < 0.4),
        },
    )


def labels(grouping: Any) -> list[str]:
    return [grouping.labels[code] for code in grouping.codes]


def test_bounds_of_history_lengths_and_warmth() -> None:
    lengths = np.array([1, 2, 3, 4, 5, 6, 7, 9, 10, 19, 20, 500])
    assert labels(by_history_length(lengths)) == [
        *("1-2", "1-2", "3", "4", "5-6", "5-6", "7-9", "7-9", "10-19", "10-19", "20+", "20+")
    ]
    counts = np.array([9, 0, 1, 4, 5, 6])
    warmth = by_target_warmth(np.array([1, 2, 3, 4, 5, 1]), counts)
    assert labels(warmth) == ["cold", "few", "few", "warm", "warm", "cold"]
    assert labels(by_target_ties(np.array([True, False]))) == ["tied", "untied"]
    with pytest.raises(DataError, match="begin with 1"):
        by_history_length(np.array([3, 0]))


def test_popularity_by_hand() -> None:
    # Of 100 interactions, more popular items hold 0, 20, 50, 80, 80, 90 (twice) and 100.
    counts = np.array([1000, 20, 30, 30, 10, 10, 0])
    items = np.array([2, 3, 1, 4, 5, 6])
    assert labels(by_target_popularity(items, counts)) == [
        *("head", "head", "mid", "tail", "tail", "tail")
    ]


@pytest.mark.parametrize("seed", range(3))
def test_popularity_equals_a_loop(seed: int) -> None:
    counts = np.random.default_rng(seed).geometric(0.05, 200) - 1
    counts[0] = 0
    total = sum(counts)
    wanted = []
    for item in range(1, 200):
        share = sum(int(other) for other in counts if other > counts[item]) / total
        wanted.append("head" if share < 0.2 else "mid" if share < 0.8 else "tail")
    assert labels(by_target_popularity(np.arange(1, 200), counts)) == wanted
    assert {"head", "mid", "tail"} == set(wanted)
    # The head holds a fifth of the interactions, up to the last item's.
    head = sum(int(counts[i]) for i in range(1, 200) if wanted[i - 1] == "head")
    assert 0.2 <= head / total < 0.3


def test_popularity_needs_interactions() -> None:
    with pytest.raises(DataError, match="there are none"):
        by_target_popularity(np.array([1]), np.zeros(3, dtype=np.int64))


def test_groups_divide_users_and_their_means_make_the_total(slices: UserSlices) -> None:
    ranks = random_ranks(1)
    frame = metrics_by_slice(ranks, slices, MetricSet.of(["NDCG", "recall"], [5, 20]))
    assert list(frame) == ["grouping", "group", "users", "metric", "value", "standard_error"]
    assert set(frame["grouping"]) == {"all", *slices.groupings}
    for metric, total in MetricSet.of(["ndcg", "recall"], [5, 20]).of_ranks(ranks).items():
        for _, rows in frame[frame["metric"] == metric].groupby("grouping"):
            assert rows["users"].sum() == USERS
            assert rows["group"].is_unique
            assert np.average(rows["value"], weights=rows["users"]) == pytest.approx(total)


def test_metrics_equal_a_loop_over_users(slices: UserSlices) -> None:
    ranks = random_ranks(2)
    frame = metrics_by_slice(ranks, slices, MetricSet.of(["ndcg"], [10])).set_index(
        ["grouping", "group"]
    )
    values = NDCG().per_user(ranks, 10)
    for name, grouping in slices.groupings.items():
        for label in set(labels(grouping)):
            chosen = [v for v, own in zip(values, labels(grouping), strict=True) if own == label]
            row = frame.loc[(name, label)]
            assert row["users"] == len(chosen)
            assert row["value"] == pytest.approx(np.mean(chosen))
            error = np.std(chosen, ddof=1) / math.sqrt(len(chosen))
            assert row["standard_error"] == pytest.approx(error)


def test_seeds_are_averaged_by_user(slices: UserSlices) -> None:
    runs = [random_ranks(seed) for seed in range(3)]
    values = np.mean([NDCG().per_user(run, 10) for run in runs], axis=0)
    pd.testing.assert_frame_equal(
        metrics_by_slice(runs, slices, MetricSet.of(["ndcg"], [10])),
        means_by_slice({"ndcg@10": values}, slices),
    )


def test_gains_of_groups_make_the_gain(slices: UserSlices) -> None:
    gains = np.random.default_rng(3).normal(0.1, 1, USERS)
    frame = means_by_slice({"gain": gains}, slices)
    for _, rows in frame.groupby("grouping"):
        assert (rows["value"] * rows["users"] / USERS).sum() == pytest.approx(gains.mean())


def test_groups_without_users_are_left_out() -> None:
    slices = UserSlices(np.arange(3), {"ties": by_target_ties(np.array([True] * 3))})
    frame = means_by_slice({"x": np.array([1.0, 2.0, 3.0])}, slices)
    assert frame["group"].tolist() == ["all", "tied"]
    slices = UserSlices(np.arange(2), {"ties": by_target_ties(np.array([True, False]))})
    frame = means_by_slice({"x": np.array([1.0, 2.0])}, slices).set_index("group")
    assert np.isnan(frame.loc["tied", "standard_error"])  # of a single user
    assert frame.loc["all", "standard_error"] == pytest.approx(0.5)


def test_other_users_are_an_error(slices: UserSlices) -> None:
    ranks = random_ranks(0)
    moved = Ranks(ranks.users + 1, ranks.higher, ranks.tied, ranks.candidates)
    with pytest.raises(DataError, match="different users"):
        metrics_by_slice([ranks, moved], slices, MetricSet.of(["ndcg"], [10]))
    with pytest.raises(DataError, match="2 values of x for 300 users"):
        means_by_slice({"x": np.ones(2)}, slices)


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_slices_of_a_dataset_equal_loops_over_the_file(
    make_parts: Parts, interactions: pd.DataFrame, model: str
) -> None:
    _, dataset, _ = make_parts(model)
    found = UserSlices.from_dataset(dataset)
    assert found.users.tolist() == dataset.histories.evaluated("test").tolist()
    tokens = dataset.id2token("user_id", found.users)
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"])
    by_user = {str(user): rows for user, rows in ordered.groupby("user_id")}
    trained: dict[str, int] = {}
    for rows in by_user.values():
        kept = rows["item_id"].tolist()[: -2 if len(rows) >= 3 else None]
        for item in kept:
            trained[item] = trained.get(item, 0) + 1
    names = {name: labels(grouping) for name, grouping in found.groupings.items()}
    for row, token in enumerate(tokens):
        rows = by_user[token]
        times, target = rows["timestamp"].tolist(), rows["item_id"].iloc[-1]
        assert names["target_ties"][row] == ("tied" if times[-1] == times[-2] else "untied")
        count = trained.get(target, 0)
        assert names["target_warmth"][row] == (
            "few" if 0 < count < 5 else ["cold", "warm"][count > 0]
        )
        length = len(rows) - 2
        first, _, last = names["history_length"][row].partition("-")
        assert int(first.rstrip("+")) <= length <= (int(last) if last else 99)
    assert {"tied", "untied"} == set(names["target_ties"])
    counts = {
        item: int(count)
        for item, count in zip(dataset.item_tokens, dataset.training_counts[1:], strict=True)
    }
    assert counts == {item: trained.get(item, 0) for item in dataset.item_tokens}
    assert dataset.training_counts[0] == 0


def test_token_order(make_parts: Parts) -> None:
    _, dataset, _ = make_parts("BPR")
    found = UserSlices.from_dataset(dataset)
    tokens = [f"t{(7 * user) % 41:02d}" for user in found.users]
    moved = found.in_token_order(tokens)
    assert moved.users.tolist() == list(range(len(tokens)))
    for name, grouping in found.groupings.items():
        by_token = dict(zip(tokens, labels(grouping), strict=True))
        assert labels(moved.groupings[name]) == [by_token[token] for token in sorted(tokens)]
