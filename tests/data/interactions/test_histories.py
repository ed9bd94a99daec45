from __future__ import annotations

import numpy as np
import pytest

from recbole_hellm.data.interactions.histories import Histories

LISTS = {1: [5, 6], 2: [7], 3: [8, 9, 8, 5], 4: [], 5: [1, 2, 3]}


@pytest.fixture
def histories() -> Histories:
    """Rows of users interleaved; within a user in order. User 4 has nothing."""
    rows = [(3, 8), (1, 5), (5, 1), (3, 9), (5, 2), (2, 7), (3, 8), (1, 6), (5, 3), (3, 5)]
    users, items = (np.array(column) for column in zip(*rows, strict=True))
    return Histories.from_pairs(users, items, 6)


def test_every_user_gets_its_own_items_in_order(histories: Histories) -> None:
    assert histories.lengths.tolist() == [0, 2, 1, 4, 0, 3]
    for user, items in LISTS.items():
        start, end = histories.offsets[user], histories.offsets[user + 1]
        assert histories.items[start:end].tolist() == items


def test_targets_are_the_last_two_of_users_with_three(histories: Histories) -> None:
    for phase, items in (("valid", [8, 2]), ("test", [5, 3])):
        assert histories.evaluated(phase).tolist() == [3, 5]
        assert histories.targets(phase).tolist() == items


def test_a_user_needs_training_and_held_out_interactions() -> None:
    lists = [[], [1, 2, 3, 4], [5, 6], [7, 8], [9, 10, 11]]
    users = np.repeat(np.arange(5), [len(items) for items in lists])
    bounds = np.array([[0, 2, 0, 2, 1], [0, 3, 1, 2, 3]])
    histories = Histories.from_pairs(users, np.concatenate(lists), 5, bounds)
    assert histories.held_out("valid").tolist() == [0, 1, 1, 0, 2]
    assert histories.held_out("test").tolist() == [0, 1, 1, 0, 0]
    assert histories.evaluated("valid").tolist() == [1, 4]  # user 2 has no training interaction
    assert histories.evaluated("test").tolist() == [1]
    assert histories.targets("valid").tolist() == [3, 10, 11]
    assert histories.targets("test").tolist() == [4]
    rows, items = histories.training(np.array([4, 1, 2]))
    assert (rows.tolist(), items.tolist()) == ([0, 1, 1], [9, 1, 2])


def test_training_leaves_the_targets_out_and_keeps_short_users_whole(histories: Histories) -> None:
    assert histories.training_lengths.tolist() == [0, 2, 1, 2, 0, 1]
    rows, items = histories.training(np.array([1, 4, 3, 2, 5]))
    assert rows.tolist() == [0, 0, 2, 2, 3, 4]
    assert items.tolist() == [5, 6, 8, 9, 7, 1]


def test_a_share_of_the_learning_users_is_drawn_with_the_seed() -> None:
    lengths = np.arange(1, 101) % 7  # users with fewer than two training items among them
    users = np.repeat(np.arange(1, 101), lengths)
    histories = Histories.from_pairs(users, np.ones_like(users), 101)
    everybody = histories.learning_users()
    assert everybody.tolist() == np.flatnonzero(histories.training_lengths >= 2).tolist()
    tenth, half = (histories.learning_users(share, seed=1) for share in (0.1, 0.5))
    assert len(tenth) == round(0.1 * len(everybody))
    assert (np.diff(tenth) > 0).all()
    assert set(tenth) < set(half) < set(everybody)
    assert tenth.tolist() != histories.learning_users(0.1, seed=2).tolist()
    assert len(histories.learning_users(1e-6)) == 1


def test_users_with_one_training_item_learn_only_if_first_items_are_targets(
    histories: Histories,
) -> None:
    assert histories.learning_users().tolist() == [1, 3]
    assert histories.learning_users(first_items=True).tolist() == [1, 2, 3, 5]
