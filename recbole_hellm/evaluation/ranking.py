"""Exact ranks of the held-out items, under every masking at once.

A target's place among the candidates is fixed by two counts: candidates that score higher, and
other candidates that score the same. Ties are resolved by expectation: a metric is averaged over
the places the target could take if tied candidates were shuffled. So a model that gives every item
the same score gets the score of a random ranking, on every platform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Where each user's held-out item was ranked.

    Attributes
    ----------
    users : ndarray of int64, shape [U]
        Internal user ids, ascending.
    higher : ndarray of int64, shape [U]
        Candidates with a higher score than the target.
    tied : ndarray of int64, shape [U]
        Candidates other than the target with the same score.
    candidates : ndarray of int64, shape [U]
        Candidates that were ranked, the target included.
    """

    users: np.ndarray
    higher: np.ndarray
    tied: np.ndarray
    candidates: np.ndarray

    @property
    def mean_rank(self) -> np.ndarray:
        """Expected 1-based rank of the target, shape [U]."""
        return self.higher + 1 + self.tied / 2

    @classmethod
    def concatenate(cls, parts: Sequence[Ranks]) -> Ranks:
        """Join parts and sort them by user."""
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(cls)
        }
        order = np.argsort(columns["users"], kind="stable")
        return cls(**{name: column[order] for name, column in columns.items()})


def count_above(
    scores: Tensor, targets: Tensor, known: Iterable[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Count the candidates above and level with each target, once per masking.

    Parameters
    ----------
    scores : Tensor, shape [B, N + 1]
        Column 0 is padding and is never a candidate, whatever it holds.
    targets : Tensor of int64, shape [B]
        Held-out item of each row; a target is never masked.
    known : iterable of (rows, items)
        For each masking, the pairs that are no candidates. Pairs may repeat.

    Returns
    -------
    list of (higher, tied, candidates)
        One triple of int64 tensors of shape [B] per masking.

    Raises
    ------
    FloatingPointError
        If a candidate's score is NaN.
    """
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


def mask_known(scores: Tensor, targets: Tensor, rows: Tensor, items: Tensor) -> Tensor:
    """Scores with padding and known items, but never the target, at minus infinity."""
    masked = scores.clone()
    target_scores = scores.gather(1, targets[:, None])
    masked[:, 0] = -torch.inf
    masked[rows, items] = -torch.inf
    return masked.scatter_(1, targets[:, None], target_scores)
