"""Every user's interactions in canonical order, as one compact array.

Splits, history masks and training sequences are all read from here, so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from recbole_hellm.data.interactions.held_out import leave_one_out

PHASES = ("valid", "test")


@dataclasses.dataclass(frozen=True)
class Histories:
    """Item sequences of users in compressed-row form.

    Attributes
    ----------
    offsets : ndarray of int64, shape [n_users + 1]
        User u's items are ``items[offsets[u]:offsets[u + 1]]``; user 0 is padding and empty.
    items : ndarray of int64, shape [n_interactions]
        Item ids in canonical order within a user.
    bounds : ndarray of int64, shape [2, n_users]
        How many of a user's interactions stand before the validation part and before the test part.
    """

    offsets: np.ndarray
    items: np.ndarray
    bounds: np.ndarray

    @classmethod
    def from_pairs(
        cls, users: np.ndarray, items: np.ndarray, n_users: int, bounds: np.ndarray | None = None
    ) -> Histories:
        """Group interaction rows, already in canonical order, by user id below `n_users`.

        Without `bounds`, the last interaction is held out for test and the one before it for
        validation.
        """
        order = np.argsort(users, kind="stable")
        counts = np.bincount(users, minlength=n_users)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        bounds = leave_one_out(counts) if bounds is None else bounds
        return cls(offsets, np.asarray(items, dtype=np.int64)[order], bounds)

    @property
    def lengths(self) -> np.ndarray:
        """Number of interactions of each user, shape [n_users]."""
        return np.diff(self.offsets)

    def before(self, phase: str) -> np.ndarray:
        """Number of interactions of each user before the part of `phase`, shape [n_users]."""
        return self.bounds[PHASES.index(phase)]

    def held_out(self, phase: str) -> np.ndarray:
        """Number of interactions of each user in the part of `phase`, shape [n_users]."""
        until = self.before("test") if phase == "valid" else self.lengths
        return until - self.before(phase)

    def evaluated(self, phase: str) -> np.ndarray:
        """Ids of the users with training interactions and interactions of `phase`, ascending."""
        return np.flatnonzero((self.training_lengths > 0) & (self.held_out(phase) > 0))

    def targets(self, phase: str) -> np.ndarray:
        """The held-out items of each of the users :meth:`evaluated`, one user after the other."""
        users = self.evaluated(phase)
        return self.stretch(users, self.before(phase)[users], self.held_out(phase)[users])[1]

    def learning_users(
        self, share: float = 1.0, seed: int = 0, first_items: bool = False
    ) -> np.ndarray:
        """Ids of users with an item to learn, ascending; all, or a share drawn at random.

        With one seed, the users of a smaller share are among those of a larger one.

        Parameters
        ----------
        share : float
        seed : int
        first_items : bool
            Whether a user's first item is to be learned, too, rather than those after it alone.
        """
        users = np.flatnonzero(self.training_lengths >= (1 if first_items else 2))
        if share == 1:
            return users
        order = np.random.default_rng(seed).permutation(users)
        return np.sort(order[: max(1, round(share * len(users)))])

    def training(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Training interactions of `users` as (row, item) pairs, in canonical order."""
        return self.stretch(users, np.zeros_like(users), self.training_lengths[users])

    @property
    def training_lengths(self) -> np.ndarray:
        """Number of training interactions of each user, shape [n_users]."""
        return self.before("valid")

    def stretch(
        self, users: np.ndarray, starts: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Stretches of users' sequences as (row, item) pairs, in canonical order.

        Parameters
        ----------
        users, starts, counts : ndarray of int64, shape [B]
            Whose sequence, the place in it where a stretch begins, and its number of items.

        Returns
        -------
        rows, items : ndarray of int64
            ``rows`` indexes into `users`.
        """
        rows = np.repeat(np.arange(len(users)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.items[(self.offsets[users] + starts)[rows] + within]
