"""Exact ranks of the held-out items, one or several a ranking, under every masking at once.

A target's place among the candidates is fixed by two counts: candidates that score higher, and
other candidates that score the same. Ties are resolved by expectation: a metric is averaged over
the places the target could take if tied candidates were shuffled. So a model that gives every item
the same score gets the score of a random ranking, on every platform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Where held-out items were ranked.

    Attributes
    ----------
    users : ndarray of int64, shape [T]
        Internal user id of each target, ascending.
    higher : ndarray of int64, shape [T]
        Candidates with a higher score than the target.
    tied : ndarray of int64, shape [T]
        Candidates other than the target with the same score.
    candidates : ndarray of int64, shape [T]
        Candidates that were ranked, the target included.
    rows : ndarray of int64, shape [T], optional
        The ranking that each target stands in, ascending; a user may have several rankings, and a
        ranking several targets, which are candidates, too. None where every user has one ranking
        with one target.
    """

    users: np.ndarray
    higher: np.ndarray
    tied: np.ndarray
    candidates: np.ndarray
    rows: np.ndarray | None = None

    @property
    def mean_rank(self) -> np.ndarray:
        """Expected 1-based rank of the target, shape [T]."""
        return self.higher + 1 + self.tied / 2

    @property
    def user_ids(self) -> np.ndarray:
        """Internal user ids, each once, ascending, shape [U]."""
        return self.users if self.rows is None else np.unique(self.users)

    def of_users(self, values: np.ndarray) -> np.ndarray:
        """Each user's mean of values of rankings, [R]: float64, shape [U]."""
        if self.rows is None:
            return values
        return means_of_runs(values, self.users[run_starts(self.rows)])


def run_starts(values: np.ndarray) -> np.ndarray:
    """First places of the runs of equal values, int64."""
    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])


def run_lengths(values: np.ndarray) -> np.ndarray:
    """Lengths of the runs of equal values, int64."""
    return np.diff(np.r_[run_starts(values), len(values)])


def means_of_runs(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Means of values over each run of equal owners, float64."""
    return np.add.reduceat(values, run_starts(owners)) / run_lengths(owners)


Counts = tuple[Tensor, Tensor, Tensor]
"""Of each target: higher, tied, candidates."""


def count_above(
    scores: Tensor,
    targets: Tensor,
    known: Iterable[tuple[Tensor, Tensor]],
    owners: Tensor | None = None,
) -> list[Counts]:
    """Count the candidates above and level with each target, once per masking.

    Parameters
    ----------
    scores : Tensor, shape [B, N + 1]
        Column 0 is padding and is never a candidate, whatever it holds.
    targets : Tensor of int64, shape [T]
        Held-out items; a row's targets are never masked.
    known : iterable of (rows, items)
        For each masking, the pairs that are no candidates. Pairs may repeat.
    owners : Tensor of int64, shape [T], optional
        The row of each target, ascending; by default every row has one.

    Returns
    -------
    list of (higher, tied, candidates)
        One triple of int64 tensors of shape [T] per masking.

    Raises
    ------
    FloatingPointError
        If a candidate's score is NaN.
    """
    if owners is None:
        return _count_single(scores, targets, known)
    width = scores.shape[1]
    kept = []
    for rows, masked in known:
        others = ~torch.isin(rows * width + masked, owners * width + targets)
        kept.append((rows[others], masked[others]))
    results = [tuple(torch.empty_like(targets) for _ in range(3)) for _ in kept]
    # All rows' first targets, then all rows' second targets, and so on.
    first = torch.searchsorted(owners, owners)
    numbers = torch.arange(len(owners), device=owners.device) - first
    for number in range(int(numbers.max()) + 1 if len(numbers) else 0):
        places = torch.nonzero(numbers == number).squeeze(1)
        chosen = owners[places]
        row_of = torch.full((len(scores),), -1, dtype=torch.int64, device=owners.device)
        row_of[chosen] = torch.arange(len(chosen), device=owners.device)
        pairs = [(row_of[rows], masked) for rows, masked in kept]
        pairs = [(rows[rows >= 0], masked[rows >= 0]) for rows, masked in pairs]
        part = scores if len(chosen) == len(scores) else scores[chosen]
        for result, counts in zip(
            results, _count_single(part, targets[places], pairs), strict=True
        ):
            for whole, count in zip(result, counts, strict=True):
                whole[places] = count
    return results  # type: ignore[return-value]


def _count_single(
    scores: Tensor, targets: Tensor, known: Iterable[tuple[Tensor, Tensor]]
) -> list[Counts]:
    """:func:`count_above` of one target a row."""
    items = scores[:, 1:]
    target_scores = scores.gather(1, targets[:, None])
    # One NaN makes the sum NaN. So do infinities of both signs, which are scores.
    if bool(items.sum().isnan()) and bool(items.isnan().any()):
        raise FloatingPointError("some scores are NaN")
    higher = _count(items > target_scores)
    level = _count(items >= target_scores) - higher - 1
    results = []
    for rows, masked in known:
        # Each pair counts once, however often a user met the item.
        keys = torch.unique(rows * scores.shape[1] + masked)
        rows, masked = keys // scores.shape[1], keys % scores.shape[1]
        rows, masked = rows[masked != targets[rows]], masked[masked != targets[rows]]
        masked_scores, wanted = scores[rows, masked], target_scores[rows, 0]
        counts = torch.zeros(3, len(targets), dtype=torch.int64, device=scores.device)
        counts[0].index_add_(0, rows, (masked_scores > wanted).long())
        counts[1].index_add_(0, rows, (masked_scores == wanted).long())
        counts[2].index_add_(0, rows, torch.ones_like(rows))
        results.append((higher - counts[0], level - counts[1], items.shape[1] - counts[2]))
    return results


def _count(truths: Tensor) -> Tensor:
    """How many are true in each row; a sum of bytes is several times as fast as one of truths."""
    return truths.view(torch.uint8).sum(1, dtype=torch.int32).long()


def mask_known(
    scores: Tensor, targets: Tensor, rows: Tensor, items: Tensor, owners: Tensor | None = None
) -> Tensor:
    """Scores with padding and known items, but never a target, at minus infinity.

    `owners` has the row of each target; by default every row has one.
    """
    owners = torch.arange(len(targets), device=targets.device) if owners is None else owners
    masked = scores.clone()
    masked[:, 0] = -torch.inf
    masked[rows, items] = -torch.inf
    masked[owners, targets] = scores[owners, targets]
    return masked
