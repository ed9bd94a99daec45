"""Every user's interactions in canonical order, as one compact array.

Splits, history masks and training sequences are all read from here, so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses

import numpy as np

MIN_INTERACTIONS = 3
"""Users with fewer interactions are kept for training and never evaluated."""


@dataclasses.dataclass(frozen=True)
class Histories:
    """Item sequences of users in compressed-row form.

    Attributes
    ----------
    offsets : ndarray of int64, shape [n_users + 1]
        User u's items are ``items[offsets[u]:offsets[u + 1]]``; user 0 is padding and empty.
    items : ndarray of int64, shape [n_interactions]
        Item ids in canonical order within a user.
    """

    offsets: np.ndarray
    items: np.ndarray

    @classmethod
    def from_pairs(cls, users: np.ndarray, items: np.ndarray, n_users: int) -> Histories:
        """Group interaction rows, already in canonical order, by user id below `n_users`."""
        order = np.argsort(users, kind="stable")
        counts = np.bincount(users, minlength=n_users)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(offsets, np.asarray(items, dtype=np.int64)[order])

    @property
    def lengths(self) -> np.ndarray:
        """Number of interactions of each user, shape [n_users]."""
        return np.diff(self.offsets)

    @property
    def evaluated_users(self) -> np.ndarray:
        """Ids of the users that have a validation and a test item, ascending."""
        return np.flatnonzero(self.lengths >= MIN_INTERACTIONS)

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

    def targets(self, phase: str) -> np.ndarray:
        """Validation or test item of each of :attr:`evaluated_users`."""
        return self.items[self.offsets[self.evaluated_users + 1] - _HELD_OUT[phase]]

    def masked_items(
        self, users: np.ndarray, masking: str, phase: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and item ids that `masking` removes from the ranking of `users`.

        Parameters
        ----------
        users : ndarray of int64, shape [B]
        masking : {"seen", "train", "none"}
            ``seen`` is everything before the target of `phase`; ``train`` is training items only.
        phase : {"valid", "test"}

        Returns
        -------
        rows, items : ndarray of int64
            Pairs to mask; ``rows`` indexes into `users`. Empty for ``none``.
        """
        if masking == "none":
            empty = np.empty(0, dtype=np.int64)
            return empty, empty
        held_out = 2 if masking == "train" else _HELD_OUT[phase]
        return self._ragged(users, self.lengths[users] - held_out)

    def training(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Training interactions of `users` as (row, item) pairs, in canonical order."""
        return self._ragged(users, self.training_lengths[users])

    @property
    def training_lengths(self) -> np.ndarray:
        """Number of training interactions of each user, shape [n_users]."""
        return np.where(self.lengths >= MIN_INTERACTIONS, self.lengths - 2, self.lengths)

    def _ragged(self, users: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.repeat(np.arange(len(users)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.items[self.offsets[users][rows] + within]


_HELD_OUT = {"valid": 2, "test": 1}
