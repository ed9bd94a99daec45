"""What is found out chunk by chunk, in any order and by any process, is the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recbole_hellm.data.interactions.target_rows import TargetRows
from recbole_hellm.evaluation.outcomes import Outcomes
from recbole_hellm.training.distributed import Processes

ONE_A_USER = TargetRows(
    np.array([2, 3, 5, 6]), np.array([3, 3, 4, 9]), np.arange(5), np.array([7, 8, 9, 7])
)
SEVERAL = TargetRows(
    np.array([2, 2, 5, 6]), np.array([3, 4, 4, 9]), np.array([0, 1, 4, 4, 6]), np.arange(10, 16)
)
CHUNKS = [np.array([3, 0]), np.array([2]), np.array([1])]


def counts_of(rows: TargetRows, chosen: np.ndarray) -> np.ndarray:
    """Two maskings; each number tells its masking, kind, and target."""
    _, items = rows.targets(chosen)
    places = np.array([np.flatnonzero(rows.items == item)[0] for item in items], dtype=np.int64)
    if rows is ONE_A_USER:
        places = chosen
    return np.array([[1000 * m + 100 * kind + places for kind in range(3)] for m in range(2)])


def lists_of(chosen: np.ndarray) -> np.ndarray:
    return np.stack([chosen, chosen + 50], axis=1)


def found(rows: TargetRows, chunks: list[np.ndarray]) -> Outcomes:
    outcomes = Outcomes.empty(rows, 2, 2)
    for chunk in chunks:
        outcomes.put(chunk, counts_of(rows, chunk), lists_of(chunk))
    return outcomes


class Gathered(Processes):
    """Processes that have found out the parts of others already."""

    others: list[Outcomes]

    def gather(self, value: Any) -> list[Any]:
        parts = []
        for other in self.others:
            Captured.parts = []
            other.shared(Captured(0, 2))
            parts += Captured.parts
        return [value, *parts]


class Captured(Processes):
    """Keeps what is sent."""

    parts: list[Any]

    def gather(self, value: Any) -> list[Any]:
        type(self).parts = [value]
        return []


@pytest.mark.parametrize("rows", [ONE_A_USER, SEVERAL], ids=["one a user", "several"])
def test_any_order_of_chunks_is_the_whole(rows: TargetRows) -> None:
    outcomes = found(rows, CHUNKS)
    assert outcomes.done.all()
    targets = len(rows.items)
    for masking in range(2):
        ranks = outcomes.ranks(masking)
        assert ranks.users.tolist() == np.repeat(rows.users, np.diff(rows.offsets)).tolist()
        assert ranks.higher.tolist() == [1000 * masking + place for place in range(targets)]
        assert ranks.tied.tolist() == [1000 * masking + 100 + place for place in range(targets)]
        assert ranks.candidates.tolist() == [1000 * masking + 200 + n for n in range(targets)]
    assert outcomes.lists.tolist() == [[0, 50], [1, 51], [2, 52], [3, 53]]


def test_rows_are_told_only_where_a_user_may_have_several() -> None:
    assert found(ONE_A_USER, CHUNKS).ranks(0).rows is None
    rows = found(SEVERAL, CHUNKS).ranks(0).rows
    assert rows is not None and rows.tolist() == [0, 1, 1, 1, 3, 3]


@pytest.mark.parametrize("rows", [ONE_A_USER, SEVERAL], ids=["one a user", "several"])
def test_processes_share_what_each_found_out(rows: TargetRows) -> None:
    whole, mine = found(rows, CHUNKS), found(rows, CHUNKS[:1])
    assert mine.done.tolist() == [True, False, False, True]
    processes = Gathered(0, 2)
    object.__setattr__(processes, "others", [found(rows, CHUNKS[1:])])
    shared = mine.shared(processes)
    assert shared.done.all()
    assert np.array_equal(shared.counts, whole.counts)
    assert np.array_equal(shared.lists, whole.lists)
    # A process may have had nothing to do.
    object.__setattr__(processes, "others", [found(rows, [])])
    assert np.array_equal(whole.shared(processes).counts, whole.counts)
