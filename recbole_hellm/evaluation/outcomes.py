"""What an evaluation finds out, row by row, in arrays that are made before it begins."""

from __future__ import annotations

import dataclasses

import numpy as np

from recbole_hellm.data.interactions.target_rows import TargetRows
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.training.distributed import Processes


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Counts of targets and lists of rows.

    Small arrays that outlive the scores of their chunk would lie between these in memory, which
    then grew with every chunk: a million users took tens of GiB.

    Attributes
    ----------
    rows : TargetRows
    counts : ndarray of int64, shape [maskings, 3, T]
        Higher, tied and ranked candidates of each target; see :class:`Ranks`.
    lists : ndarray of int64, shape [R, K]
        Items of each row, best first.
    done : ndarray of bool, shape [R]
        Rows that have been ranked.
    """

    rows: TargetRows
    counts: np.ndarray
    lists: np.ndarray
    done: np.ndarray

    @classmethod
    def empty(cls, rows: TargetRows, maskings: int, length: int) -> Outcomes:
        """Those of no row yet, under so many maskings, with lists of so many items."""
        counts = np.zeros((maskings, 3, len(rows.items)), dtype=np.int64)
        lists = np.zeros((len(rows), length), dtype=np.int64)
        return cls(rows, counts, lists, np.zeros(len(rows), dtype=bool))

    def put(self, chosen: np.ndarray, counts: np.ndarray, lists: np.ndarray) -> None:
        """Note what was found out about some rows.

        Parameters
        ----------
        chosen : ndarray of int64, shape [B]
            Row numbers.
        counts : ndarray of int64, shape [maskings, 3, t]
            Of their t targets.
        lists : ndarray of int64, shape [B, K]
        """
        _, numbers = self.rows.target_numbers(chosen)
        self.counts[:, :, numbers] = counts
        self.lists[chosen], self.done[chosen] = lists, True

    def shared(self, processes: Processes) -> Outcomes:
        """What all processes together found out, each about other rows."""
        if processes.size == 1:
            return self
        chosen = np.flatnonzero(self.done)
        _, numbers = self.rows.target_numbers(chosen)
        mine = (chosen, self.counts[:, :, numbers], self.lists[chosen])
        for part in processes.gather(mine):
            self.put(*part)
        return self

    def ranks(self, masking: int) -> Ranks:
        """Ranks of all targets under a masking, by its number."""
        rows, (higher, tied, candidates) = self.rows, self.counts[masking]
        numbers = None if rows.one_a_user else rows.rows
        return Ranks(rows.users[rows.rows], higher, tied, candidates, numbers)
