"""What is evaluated: rows of a user, the history at that point, and the items to be found."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from recbole_hellm.data.interactions.histories import Histories

Unit = Literal["user", "interaction"]


@dataclasses.dataclass(frozen=True)
class TargetRows:
    """The rows of a phase, by ascending user and place.

    Attributes
    ----------
    users : ndarray of int64, shape [R]
        User ids.
    places : ndarray of int64, shape [R]
        Number of the user's interactions before the row; they are its history.
    offsets : ndarray of int64, shape [R + 1]
        Row r is to find ``items[offsets[r]:offsets[r + 1]]``.
    items : ndarray of int64, shape [T]
        Item ids, each once in a row.
    """

    users: np.ndarray
    places: np.ndarray
    offsets: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, histories: Histories, phase: str, unit: Unit) -> TargetRows:
        """The rows of the users that are evaluated in `phase`.

        Parameters
        ----------
        histories : Histories
        phase : {"valid", "test"}
        unit : {"user", "interaction"}
            One row a user, whose targets are all items of the part; or one row an interaction of
            the part, predicted from everything before it.
        """
        users = histories.evaluated(phase)
        first, counts = histories.before(phase)[users], histories.held_out(phase)[users]
        rows, items = histories.stretch(users, first, counts)
        if unit == "interaction":
            within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            return cls(users[rows], first[rows] + within, np.arange(len(rows) + 1), items)
        # An item that the user took several times is one target.
        _, kept = np.unique(rows * (items.max(initial=0) + 1) + items, return_index=True)
        kept.sort()
        offsets = np.searchsorted(rows[kept], np.arange(len(users) + 1))
        return cls(users, first, offsets, items[kept])

    def __len__(self) -> int:
        return len(self.users)

    @property
    def one_a_user(self) -> bool:
        """Whether every user has one row with one target, as under leave-one-out."""
        return len(self.items) == len(self) and bool((np.diff(self.users) > 0).all())

    @property
    def rows(self) -> np.ndarray:
        """The row that each of `items` belongs to, int64 [T]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def targets(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets of some rows as (row, item) pairs; rows index into `chosen`, [B]."""
        rows, numbers = self.target_numbers(chosen)
        return rows, self.items[numbers]

    def target_numbers(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets of some rows as (row, place in `items`) pairs; rows index into `chosen`, [B]."""
        counts = np.diff(self.offsets)[chosen]
        rows = np.repeat(np.arange(len(chosen)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.offsets[chosen][rows] + within

    def reordered(self, order: np.ndarray) -> TargetRows:
        """The same rows in another order."""
        _, items = self.targets(order)
        offsets = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[order])])
        return TargetRows(self.users[order], self.places[order], offsets, items)

    def known(
        self, histories: Histories, chosen: np.ndarray, masking: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and item ids that `masking` removes from the ranking of some rows.

        Parameters
        ----------
        histories : Histories
        chosen : ndarray of int64, shape [B]
            Row numbers.
        masking : {"seen", "train", "none"}
            ``seen`` is everything before the row; ``train`` is training items only.

        Returns
        -------
        rows, items : ndarray of int64
            Pairs to mask, which may hold targets; ``rows`` indexes into `chosen`. Empty for
            ``none``.
        """
        users = self.users[chosen]
        counts = {
            "seen": self.places[chosen],
            "train": histories.training_lengths[users],
            "none": np.zeros_like(users),
        }
        return histories.stretch(users, np.zeros_like(users), counts[masking])

    def places_among(
        self, histories: Histories, phase: str, owners: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Find each row's first target among the interactions of a part.

        Parameters
        ----------
        histories : Histories
        phase : {"valid", "test"}
        owners, positions : ndarray, shape [n]
            User id of each interaction of the part, and what orders a user's interactions.

        Returns
        -------
        ndarray of int64, shape [R]
            Indices into `owners`.
        """
        order = np.lexsort((positions, owners))
        begins = np.searchsorted(owners[order], self.users)
        return order[begins + self.places - histories.before(phase)[self.users]]
