"""Rows of the evaluation, against loops over lists."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_hellm.data.interactions.histories import PHASES, Histories
from recbole_hellm.data.interactions.target_rows import TargetRows, Unit

LISTS = [[], [1, 2, 3, 2, 4, 5, 4, 2], [6, 7], [8, 9, 8], [], [3, 3, 3, 3], [5, 6, 7]]
BOUNDS = np.array([[0, 3, 0, 1, 0, 1, 3], [0, 5, 1, 1, 0, 2, 3]])


@pytest.fixture
def histories() -> Histories:
    users = np.repeat(np.arange(7), [len(items) for items in LISTS])
    return Histories.from_pairs(
        users, np.array([item for items in LISTS for item in items]), 7, BOUNDS
    )


def parts(phase: str) -> dict[int, tuple[int, int]]:
    """First and last place of the part of each user that is evaluated."""
    found = {}
    for user, items in enumerate(LISTS):
        first, second = BOUNDS[:, user]
        begin, end = (first, second) if phase == "valid" else (second, len(items))
        if first > 0 and end > begin:
            found[user] = (int(begin), int(end))
    return found


@pytest.mark.parametrize("phase", PHASES)
def test_rows_of_users_hold_all_their_targets_once(histories: Histories, phase: str) -> None:
    rows = TargetRows.of(histories, phase, "user")
    wanted = parts(phase)
    assert rows.users.tolist() == [*wanted]
    assert rows.places.tolist() == [begin for begin, _ in wanted.values()]
    for row, (user, (begin, end)) in enumerate(wanted.items()):
        items = rows.items[rows.offsets[row] : rows.offsets[row + 1]].tolist()
        assert items == list(dict.fromkeys(LISTS[user][begin:end]))
    assert not rows.one_a_user


@pytest.mark.parametrize("phase", PHASES)
def test_rows_of_interactions_hold_one_each(histories: Histories, phase: str) -> None:
    rows = TargetRows.of(histories, phase, "interaction")
    wanted = [
        (user, place, LISTS[user][place])
        for user, (begin, end) in parts(phase).items()
        for place in range(begin, end)
    ]
    assert list(zip(rows.users, rows.places, rows.items, strict=True)) == wanted
    assert rows.rows.tolist() == [*range(len(wanted))]
    assert not rows.one_a_user


@pytest.mark.parametrize("unit", ["user", "interaction"])
@pytest.mark.parametrize("phase", PHASES)
def test_masks_are_what_came_before(histories: Histories, phase: str, unit: Unit) -> None:
    rows = TargetRows.of(histories, phase, unit)
    chosen = np.array([len(rows) - 1, 0, 1])
    for masking in ("seen", "train", "none"):
        places, items = rows.known(histories, chosen, masking)
        for number, row in enumerate(chosen):
            user = rows.users[row]
            until = {"seen": rows.places[row], "train": BOUNDS[0, user], "none": 0}[masking]
            assert items[places == number].tolist() == LISTS[user][:until]
    owners, targets = rows.targets(chosen)
    for number, row in enumerate(chosen):
        own = rows.items[rows.offsets[row] : rows.offsets[row + 1]]
        assert targets[owners == number].tolist() == own.tolist()


@pytest.mark.parametrize("unit", ["user", "interaction"])
@pytest.mark.parametrize("phase", PHASES)
def test_rows_are_found_in_a_part_in_any_order(
    histories: Histories, phase: str, unit: Unit
) -> None:
    """A part also has the interactions of users that are not evaluated."""
    rows = TargetRows.of(histories, phase, unit)
    table = []
    for user, items in enumerate(LISTS):
        first, second = BOUNDS[:, user]
        begin, end = (first, second) if phase == "valid" else (second, len(items))
        table += [(user, place) for place in range(begin, end)]
    table = [table[place] for place in np.random.default_rng(1).permutation(len(table))]
    owners, positions = (np.array(column) for column in zip(*table, strict=True))
    found = rows.places_among(histories, phase, owners, positions)
    assert owners[found].tolist() == rows.users.tolist()
    assert positions[found].tolist() == rows.places.tolist()


def test_leave_one_out_has_one_row_a_user_in_either_unit() -> None:
    histories = Histories.from_pairs(np.array([1, 1, 1, 2, 2, 2, 2]), np.arange(1, 8), 3)
    for unit in ("user", "interaction"):
        rows = TargetRows.of(histories, "test", unit)  # type: ignore[arg-type]
        assert rows.one_a_user
        assert (rows.users.tolist(), rows.items.tolist()) == ([1, 2], [3, 7])
