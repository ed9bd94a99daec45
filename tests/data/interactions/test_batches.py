from __future__ import annotations

import numpy as np
import pytest

from recbole_hellm.data.interactions import batches as batches_module
from recbole_hellm.data.interactions.batches import (
    BucketedBatches,
    mixed_lengths,
    sequence_rows,
    target_rows,
)
from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.errors import DataError


@pytest.mark.parametrize("size", [1, 7, 64, 5000])
def test_buckets_hold_every_row_once_an_epoch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "POOL_BATCHES", 4)
    lengths = np.random.default_rng(0).integers(1, 50, 1003)
    batches = BucketedBatches(lengths, size, seed=1)
    epochs = [list(batches), list(batches)]
    for epoch in epochs:
        assert len(epoch) == len(batches) == max(1, 1003 // size)
        assert sorted(np.concatenate(epoch)) == list(range(1003))
        sizes = [len(rows) for rows in epoch]
        assert max(sizes) - min(sizes) <= 1
    if size < 1003:
        assert [rows.tolist() for rows in epochs[0]] != [rows.tolist() for rows in epochs[1]]


@pytest.mark.parametrize("size", [1, 30, 200, 10**6])
def test_buckets_of_equal_weight_hold_every_row_once_and_are_never_empty(size: int) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(2, 50, 400)
    lengths[:3] = 300
    weights = lengths - 1
    batches = BucketedBatches(lengths, size, seed=1, weights=weights)
    epoch = list(batches)
    assert len(epoch) == len(batches)
    assert sorted(np.concatenate(epoch)) == list(range(400))
    mean = weights.sum() / len(batches)
    assert mean >= min(size, weights.sum())
    for rows in epoch:
        assert len(rows)
        assert abs(weights[rows].sum() - mean) <= weights.max() + 1


def test_rows_are_only_shuffled_if_lengths_shall_not_matter() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 4000)
    epoch = list(BucketedBatches(lengths, 100, seed=1, similar=False))
    assert sorted(np.concatenate(epoch).tolist()) == list(range(4000))
    spreads = [lengths[batch].std() for batch in epoch]
    assert min(spreads) > 0.7 * lengths.std()


def test_buckets_have_similar_lengths_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 3200)
    epoch = list(BucketedBatches(lengths, 100, seed=1))
    spread = np.mean([np.ptp(lengths[rows]) for rows in epoch])
    assert spread < 4  # 48 without buckets
    means = [lengths[rows].mean() for rows in epoch]
    assert means != sorted(means)


def test_nothing_to_learn_from_is_told() -> None:
    with pytest.raises(DataError, match=r"four interactions .* such as BPR"):
        BucketedBatches(np.zeros(0, dtype=np.int64), 4, 0)


def test_sequences_are_the_last_items_of_each_users_training_part() -> None:
    lengths = [2, 3, 4, 9]  # the first user is not evaluated, the second has one training item
    users = np.repeat(np.arange(1, 5), lengths)
    histories = Histories.from_pairs(users, np.arange(100, 100 + len(users)), 5)
    owners, starts, sizes, targets = sequence_rows(histories, 4)
    assert owners.tolist() == [1, 3, 4]
    rows = [
        histories.items[start : start + size] for start, size in zip(starts, sizes, strict=True)
    ]
    assert [row.tolist() for row in rows] == [[100, 101], [105, 106], [111, 112, 113, 114, 115]]
    assert targets.tolist() == [1, 1, 4]


def test_first_items_have_rows_that_begin_one_place_before_them() -> None:
    lengths = [2, 3, 4, 9]
    users = np.repeat(np.arange(1, 5), lengths)
    histories = Histories.from_pairs(users, np.arange(100, 100 + len(users)), 5)
    first = [(1, -1, 2, 1), (2, 1, 2, 1), (3, 4, 2, 1), (4, 8, 2, 1)]
    for rows in (
        lambda *more: sequence_rows(histories, 4, *more),
        lambda *more: target_rows(histories, 4, 2, *more),
    ):
        without = list(zip(*rows(), strict=True))
        assert list(zip(*rows(None, True), strict=True)) == without + first
        some = np.array([2, 4])
        chosen = [row for row in without if row[0] == 4]
        assert list(zip(*rows(some, True), strict=True)) == [*chosen, first[1], first[3]]
        assert list(zip(*rows(some), strict=True)) == chosen


def test_rows_without_a_history_are_spread_over_all_batches() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 50, 6400)
    empty = rng.random(6400) < 0.25
    lengths[empty] = 1
    mixed = mixed_lengths(lengths, empty, seed=3)
    assert mixed[~empty].tolist() == lengths[~empty].tolist()
    assert set(mixed[empty]) <= set(lengths[~empty])
    assert mixed.tolist() == mixed_lengths(lengths, empty, seed=3).tolist()
    shares = [empty[batch].mean() for batch in BucketedBatches(mixed, 100, seed=1)]
    assert 0.05 < min(shares) < max(shares) < 0.45
    assert max(empty[batch].mean() for batch in BucketedBatches(lengths, 100, seed=1)) == 1
    none, every = np.zeros(3, dtype=bool), np.ones(3, dtype=bool)
    for rows in (none, every):
        assert mixed_lengths(lengths[:3], rows, seed=3).tolist() == lengths[:3].tolist()
