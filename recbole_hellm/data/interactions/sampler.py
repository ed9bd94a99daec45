"""Training triples with users drawn uniformly, as HeLLM's pre-training draws them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_hellm.errors import DataError


class UserUniformSampler:
    r"""Batches of (user, positive, negative) over distinct, uniformly drawn users.

    Each batch holds `batch_size` distinct users (all of them if there are fewer), for each user one
    of the training items and one of the items the user has no training interaction with, both
    uniform. RecBole's loaders go over interactions instead, so that active users weigh more.

    Parameters
    ----------
    users, items : ndarray of int64, shape [E]
        Training interactions as internal ids from 1; duplicates count once.
    n_users, n_items : int
        Numbers of ids, padding id 0 included.
    batch_size : int
        Users in a batch.
    seed : int

    Raises
    ------
    DataError
        If there are no interactions, or a user interacted with every item.

    Notes
    -----
    An epoch has :math:`\lfloor E / B \rfloor + 1` batches of B users, as in the authors' code.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        n_users: int,
        n_items: int,
        batch_size: int,
        seed: int,
    ) -> None:
        if len(users) == 0:
            raise DataError("There are no training interactions to draw users from.")
        # Sorted pairs: user u's items are _items[_starts[u] : _starts[u] + _counts[u]], ascending.
        pairs = np.unique(np.asarray(users, dtype=np.int64) * n_items + np.asarray(items))
        owners, owned = pairs // n_items, pairs % n_items
        counts = np.bincount(owners, minlength=n_users)
        if counts.max() >= n_items - 1:
            raise DataError(
                f"User id {int(counts.argmax())} has a training interaction with each of the "
                f"{n_items - 1} items, so there is no negative to draw; remove that user."
            )
        starts = np.cumsum(counts) - counts
        eligible = np.flatnonzero(counts)
        self.batch_size = min(batch_size, len(eligible))
        self.n_items = n_items
        self._items = torch.from_numpy(owned)
        self._counts = torch.from_numpy(counts)
        self._starts = torch.from_numpy(starts)
        self._eligible = torch.from_numpy(eligible)
        # Non-interacted items below a user's j-th item (from 0), in one ascending array.
        below = owned - 1 - (np.arange(len(pairs)) - starts[owners])
        self._gaps = torch.from_numpy(owners * n_items + below)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._items) // self.batch_size + 1

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(len(self)):
            yield self.draw()

    def draw(self) -> dict[str, Tensor]:
        """One batch: ``user_id``, ``item_id`` and ``neg_item_id``, int64, shape [B] each."""
        order = torch.randperm(len(self._eligible), generator=self.generator)
        users = self._eligible[order[: self.batch_size]]
        counts = self._counts[users]
        positives = self._items[self._starts[users] + self._below(counts)]
        return {"user_id": users, "item_id": positives, "neg_item_id": self._negatives(users)}

    def _negatives(self, users: Tensor) -> Tensor:
        """The r-th item without interaction, r uniform: no rejection, so one draw always does."""
        rank = self._below(self.n_items - 1 - self._counts[users])
        passed = torch.searchsorted(self._gaps, users * self.n_items + rank, right=True)
        return rank + 1 + passed - self._starts[users]

    def _below(self, limits: Tensor) -> Tensor:
        """Uniform integers from 0 to ``limits - 1``."""
        uniform = torch.rand(len(limits), dtype=torch.float64, generator=self.generator)
        return (uniform * limits).long()

    def state_dict(self) -> dict[str, Any]:
        """State of the random numbers, as one tensor."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.generator.set_state(state["generator"])
