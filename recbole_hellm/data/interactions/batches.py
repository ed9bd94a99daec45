"""Which rows make a batch. Needs numpy and torch, but not RecBole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.errors import DataError

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

POOL_BATCHES = 32
"""Batches that are shuffled together before rows are sorted by length."""


class BucketedBatches:
    """Shuffled batches of equal weight, of rows of similar length unless told otherwise.

    All rows are shuffled; runs of :data:`POOL_BATCHES` batches are sorted by length and cut into
    batches, whose order is shuffled again. Every row appears once an epoch.

    Cuts are made by weight, the number of targets a row holds. A loss that is a mean over a batch's
    targets then counts every target alike, although batches hold sequences of similar length;
    batches of equally many rows would count those of short sequences many times over.

    Parameters
    ----------
    lengths : ndarray of int64, shape [R]
    batch_size : int
        Targets in a batch, at least and to within the heaviest row.
    seed : int
    weights : ndarray of int64, shape [R], optional
        Targets of each row; one by default.
    similar : bool
        Sort by length.

    Raises
    ------
    DataError
        If there are no rows.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int,
        weights: np.ndarray | None = None,
        similar: bool = True,
    ) -> None:
        if not len(lengths):
            raise DataError(
                "No user has the four interactions that a sequential model needs to learn "
                "something; use a larger dataset, or a general model such as BPR."
            )
        self.lengths, self.similar = lengths, similar
        self.weights = np.ones_like(lengths) if weights is None else weights
        total = int(self.weights.sum())
        # No batch is lighter than the heaviest row, so that none is empty.
        size = max(batch_size, int(self.weights.max(initial=1)))
        count = max(1, total // size)
        self.cuts = np.arange(1, count) * total // count
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.cuts) + 1

    def __iter__(self) -> Iterator[np.ndarray]:
        order = torch.randperm(len(self.lengths), generator=self.generator).numpy()
        pool = POOL_BATCHES * -(-len(order) // len(self))
        for start in range(0, len(order), pool) if self.similar else ():
            rows = order[start : start + pool]
            order[start : start + pool] = rows[np.argsort(self.lengths[rows], kind="stable")]
        ends = np.searchsorted(np.cumsum(self.weights[order]), self.cuts, side="right")
        batches = np.split(order, ends)
        for index in torch.randperm(len(batches), generator=self.generator).tolist():
            yield batches[index]

    def state_dict(self) -> dict[str, Any]:
        """State of the random numbers."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.generator.set_state(state["generator"])


def mixed_lengths(lengths: np.ndarray, empty: np.ndarray, seed: int) -> np.ndarray:
    """Lengths to sort by that spread rows without a history over all batches.

    By their own length these rows, which all read the same, would make up whole batches.

    Parameters
    ----------
    lengths : ndarray of int64, shape [R]
    empty : ndarray of bool, shape [R]
        Rows without a history; each gets the length of another row, drawn with `seed`.
    seed : int
    """
    others = lengths[~empty]
    if not empty.any() or not len(others):
        return lengths
    mixed = lengths.copy()
    mixed[empty] = np.random.default_rng(seed).choice(others, int(empty.sum()))
    return mixed


def sequence_rows(
    histories: Histories, limit: int, users: np.ndarray | None = None, first_items: bool = False
) -> Rows:
    """Whole training sequences, one user a row, for models that predict at every position.

    A sequence longer than the model's history keeps its last `limit` items and the one before them
    as a first input.

    Parameters
    ----------
    histories : Histories
    limit : int
        Longest history.
    users : ndarray of int64, optional
        Some of the users with an item to learn; all of them by default.
    first_items : bool
        Whether first items are targets, too, in rows of their own.

    Returns
    -------
    users, starts, lengths, targets : ndarray of int64, shape [R]
        As those of :func:`target_rows`.
    """
    users, first = _learning(histories, users, first_items)
    lengths = np.minimum(histories.training_lengths[users], limit + 1)
    starts = histories.offsets[users] + histories.training_lengths[users] - lengths
    return _joined((users, starts, lengths, lengths - 1), first)


def target_rows(
    histories: Histories,
    limit: int,
    size: int,
    users: np.ndarray | None = None,
    first_items: bool = False,
) -> Rows:
    """Stretches of training sequences that hold every sample (history, next item) once.

    Histories that begin with a user's first item lie in one stretch, cut where it holds `size`
    targets; a longer one, which had to be cut to its last `limit` items, has one of its own, since
    it begins later.

    Parameters
    ----------
    histories : Histories
    limit : int
        Longest history.
    size : int
        Most targets in a stretch.
    users, first_items
        As in :func:`sequence_rows`.

    Returns
    -------
    users, starts, lengths, targets : ndarray of int64, shape [R]
        Owner of each stretch, place of its first item in ``histories.items``, numbers of its items
        and of its targets, which are the last of them. The row of a user's first item begins one
        place before it, where an item of padding is to be read.
    """
    users, first = _learning(histories, users, first_items)
    targets = histories.training_lengths[users] - 1
    whole = np.minimum(targets, limit)
    owner, rank = _runs(-(-whole // size))
    last = np.minimum((rank + 1) * size, whole[owner])
    cut, shift = _runs(targets - whole)
    owners = np.concatenate([owner, cut])
    starts = histories.offsets[users[owners]]
    starts[len(owner) :] += shift + 1
    lengths = np.concatenate([last + 1, np.full(len(cut), limit + 1)])
    held = np.concatenate([last - rank * size, np.ones(len(cut), dtype=np.int64)])
    return _joined((users[owners], starts, lengths, held), first)


def _learning(
    histories: Histories, users: np.ndarray | None, first_items: bool
) -> tuple[np.ndarray, Rows]:
    """Users with a next item to learn, and the rows of first items."""
    users = histories.learning_users(first_items=first_items) if users is None else users
    first = users if first_items else users[:0]
    ones = np.ones_like(first)
    rows = first, histories.offsets[first] - 1, 2 * ones, ones
    return users[histories.training_lengths[users] >= 2], rows


def _joined(rows: Rows, others: Rows) -> Rows:
    """Two sets of rows as one."""
    a, b, c, d = (np.concatenate(pair) for pair in zip(rows, others, strict=True))
    return a, b, c, d


def _runs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run and place within it of each element of runs of the given lengths."""
    runs = np.repeat(np.arange(len(counts)), counts)
    return runs, np.arange(len(runs)) - np.repeat(np.cumsum(counts) - counts, counts)
