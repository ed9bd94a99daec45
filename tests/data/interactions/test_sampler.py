from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from recbole_hellm.data.interactions.sampler import UserUniformSampler
from recbole_hellm.errors import DataError

N_USERS, N_ITEMS = 8, 7  # ids 1..7 and 1..6
OWNED = {1: [1], 2: [1, 2, 3, 4, 5], 3: [2, 6], 5: [3, 4], 6: [6], 7: [1, 3, 5]}  # 4 has none


def pairs() -> tuple[np.ndarray, np.ndarray]:
    rows = [(user, item) for user, items in OWNED.items() for item in items]
    rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    users, items = np.array([*rows, rows[0]]).T  # one pair twice
    return users, items


def sampler(batch_size: int = 4, seed: int = 3) -> UserUniformSampler:
    return UserUniformSampler(*pairs(), N_USERS, N_ITEMS, batch_size, seed)


def draws(number: int) -> list[tuple[int, int, int]]:
    batches = sampler()
    columns = [batches.draw() for _ in range(number)]
    names = ("user_id", "item_id", "neg_item_id")
    return [row for c in columns for row in zip(*(c[n].tolist() for n in names), strict=True)]


def test_triples_are_valid_and_users_distinct() -> None:
    for batch in sampler():
        users = batch["user_id"].tolist()
        assert len(users) == len(set(users)) == 4
        assert all(values.dtype == torch.int64 for values in batch.values())
    for user, positive, negative in draws(200):
        assert positive in OWNED[user]
        assert negative not in OWNED[user]
        assert 1 <= negative < N_ITEMS


def test_users_positives_and_negatives_are_uniform() -> None:
    rows = np.array(draws(6000))
    users = np.bincount(rows[:, 0], minlength=N_USERS)[list(OWNED)] / len(rows)
    np.testing.assert_allclose(users, 1 / len(OWNED), atol=0.01)
    for user, owned in OWNED.items():
        own = rows[rows[:, 0] == user]
        others = sorted(set(range(1, N_ITEMS)) - set(owned))
        for column, allowed in ((1, owned), (2, others)):
            share = np.bincount(own[:, column], minlength=N_ITEMS)[allowed] / len(own)
            np.testing.assert_allclose(share, 1 / len(allowed), atol=0.035)


def test_epoch_length() -> None:
    # 14 distinct pairs: floor(14 / 4) + 1; the batch never exceeds the 6 users with items.
    assert len(sampler()) == len(list(sampler())) == 4
    large = sampler(batch_size=100)
    assert len(large) == 14 // 6 + 1
    assert sorted(large.draw()["user_id"].tolist()) == sorted(OWNED)


def test_the_same_seed_gives_the_same_batches() -> None:
    first, second, other = list(sampler()), list(sampler()), list(sampler(seed=4))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(
        torch.equal(a["user_id"], b["user_id"]) for a, b in zip(first, other, strict=True)
    )


def test_state_round_trip_through_a_weights_only_file() -> None:
    original = sampler()
    list(original)
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    file.seek(0)
    resumed = sampler(seed=99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for a, b in zip(original, resumed, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_user_with_every_item_is_an_error() -> None:
    users, items = pairs()
    users, items = np.r_[users, [3] * 6], np.r_[items, range(1, N_ITEMS)]
    with pytest.raises(DataError, match=r"User id 3 .* 6 items"):
        UserUniformSampler(users, items, N_USERS, N_ITEMS, 4, 0)


def test_no_interactions_is_an_error() -> None:
    empty = np.empty(0, dtype=np.int64)
    with pytest.raises(DataError, match="no training interactions"):
        UserUniformSampler(empty, empty, N_USERS, N_ITEMS, 4, 0)
