"""Sampled candidates, with which older papers measured; never used unless asked for.

Metrics over sampled candidates do not rank methods as full rankings do (Krichene and Rendle, KDD
2020). They are here so that numbers of old papers have something to be compared with.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.evaluation.ranking import Counts, count_above


class SampledCandidates:
    """For every user, items without any interaction of theirs, drawn once for all methods.

    What a user is given depends on the seed and on tokens, not on ids or on other users.

    Parameters
    ----------
    kind : str
        ``uniform-100`` or ``popularity-100``: how many, and whether each item is as likely as any
        other or as likely as it is popular in training, without replacement.
    seed : int
    histories : Histories
    counts : ndarray of int64, shape [N + 1]
        Training interactions by item id.
    users, items : sequence of str
        Tokens of user ids 1..M and of item ids 1..N.
    """

    def __init__(
        self,
        kind: str,
        seed: int,
        histories: Histories,
        counts: np.ndarray,
        users: Sequence[str],
        items: Sequence[str],
    ) -> None:
        name, _, number = kind.partition("-")
        self.count, self.seed, self.histories = int(number), seed, histories
        self._users = users
        self._drawn: dict[int, np.ndarray] = {}
        # Drawn are places in the order of tokens, which is the same whatever the ids are.
        self._ids = np.argsort(np.asarray(items, dtype=object), kind="stable") + 1
        self._places = np.empty(len(items) + 1, dtype=np.int64)
        self._places[self._ids] = np.arange(len(items))
        self._weights = counts[self._ids].astype(np.float64) if name == "popularity" else None

    @classmethod
    def of(cls, dataset: object) -> SampledCandidates | None:
        """Those that a dataset's configuration asks for; None for a full ranking."""
        config = dataset.config  # type: ignore[attr-defined]
        if config["candidates"] == "all":
            return None
        return cls(
            config["candidates"],
            config["split_seed"],
            dataset.histories,  # type: ignore[attr-defined]
            dataset.training_counts,  # type: ignore[attr-defined]
            dataset.user_tokens,  # type: ignore[attr-defined]
            dataset.item_tokens,  # type: ignore[attr-defined]
        )

    def draw(self, users: np.ndarray) -> np.ndarray:
        """Candidates of some users, item ids [B, C]; 0 where there are fewer left to draw."""
        drawn = np.zeros((len(users), self.count), dtype=np.int64)
        for row, user in enumerate(users.tolist()):
            if user not in self._drawn:
                self._drawn[user] = self._of_user(user)
            drawn[row, : len(self._drawn[user])] = self._drawn[user]
        return drawn

    def _of_user(self, user: int) -> np.ndarray:
        offsets, items = self.histories.offsets, self.histories.items
        known = np.unique(self._places[items[offsets[user] : offsets[user + 1]]])
        token = zlib.crc32(str(self._users[user - 1]).encode())
        generator, total = np.random.default_rng([self.seed, token]), len(self._ids)
        if self._weights is None:
            most = min(self.count + len(known), total)
            places = generator.choice(total, most, replace=False)
            return self._ids[places[~np.isin(places, known)][: self.count]]
        # The smallest of exponential times: a draw without replacement by weight (Efraimidis and
        # Spirakis, 2006).
        with np.errstate(divide="ignore"):
            times = generator.exponential(size=total) / self._weights
        times[known] = np.inf
        places = np.argsort(times, kind="stable")[: self.count]
        return self._ids[places[np.isfinite(times[places])]]


def count_among(
    scores: Tensor,
    targets: Tensor,
    owners: Tensor,
    sampled: Tensor,
) -> Counts:
    """Count the candidates above and level with each target, among targets and sampled items.

    Parameters
    ----------
    scores : Tensor, shape [B, N + 1]
    targets, owners : Tensor of int64, shape [T]
        Held-out items and the row of each, ascending.
    sampled : Tensor of int64, shape [B, C]
        Item ids; 0 is none.

    Returns
    -------
    higher, tied, candidates : Tensor of int64, shape [T]

    Raises
    ------
    FloatingPointError
        If a candidate's score is NaN.
    """
    numbers = torch.arange(len(owners), device=owners.device)
    numbers = numbers - torch.searchsorted(owners, owners)
    most = int(numbers.max()) + 1 if len(numbers) else 0
    shape = (len(scores), 1 + most + sampled.shape[1])
    columns = torch.zeros(shape, dtype=torch.int64, device=scores.device)
    columns[owners, 1 + numbers] = targets
    columns[:, 1 + most :] = sampled
    rows, places = torch.nonzero(columns[:, 1:] == 0, as_tuple=True)
    chosen = scores.gather(1, columns)
    chosen[rows, places + 1] = -torch.inf  # padding's own score may be anything
    (counts,) = count_above(chosen, 1 + numbers, [(rows, places + 1)], owners)
    return counts
