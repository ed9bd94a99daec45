"""The metrics of ranks: how high the held-out items stand in a user's ranking.

With several targets in a ranking these are RecBole's definitions, averaged over every order of
candidates with the same score. All averages are exact: that of a sum over targets by adding the
targets' own, the others by the counts in :class:`TieGroups`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from recbole_hellm.evaluation.metric import RankMetric
from recbole_hellm.evaluation.ranking import Ranks, run_lengths, run_starts


@dataclasses.dataclass(frozen=True)
class TieGroups:
    """How the targets of each ranking lie among candidates with the same score.

    Two targets of a ranking have the same score just where as many candidates are above them.

    Attributes
    ----------
    starts : ndarray of int64, shape [R]
        First target of each ranking.
    order : ndarray of int64, shape [T]
        Targets by ranking, those with the highest score first.
    counts : ndarray of int64, shape [R]
        Targets of each ranking.
    above : ndarray of int64, shape [T]
        Targets of the ranking with a higher score.
    within : ndarray of int64, shape [T]
        Targets of the ranking with the same score, the target itself included.
    """

    starts: np.ndarray
    order: np.ndarray
    counts: np.ndarray
    above: np.ndarray
    within: np.ndarray

    @classmethod
    def of(cls, ranks: Ranks) -> TieGroups:
        """The groups of `ranks`, which have ``rows``."""
        assert ranks.rows is not None  # noqa: S101
        starts = run_starts(ranks.rows)
        counts = run_lengths(ranks.rows)
        order = np.lexsort((ranks.higher, ranks.rows))
        new = np.r_[True, np.diff(ranks.higher[order]) != 0][: len(order)]
        new[starts] = True
        group = np.cumsum(new) - 1
        sizes = np.bincount(group)
        above = np.flatnonzero(new)[group] - np.repeat(starts, counts)
        unsorted = np.empty_like(order)
        unsorted[order] = np.arange(len(order))
        return cls(starts, order, counts, above[unsorted], sizes[group][unsorted])


def first_target(ranks: Ranks, gains: np.ndarray) -> np.ndarray:
    """Expected gain of the place of a ranking's first target, float64 [R].

    Parameters
    ----------
    ranks : Ranks
        With ``rows``.
    gains : ndarray of float64, shape [k]
        Of the places 1 to k.
    """
    groups = TieGroups.of(ranks)
    best = groups.order[groups.starts]
    higher, size, targets = ranks.higher[best], ranks.tied[best] + 1, groups.within[best]
    value, none_yet = np.zeros(len(best)), np.ones(len(best))
    for place in range(len(gains)):  # of the group's, counted from 0
        left = np.maximum(size - place, 1)
        found = none_yet * np.minimum(targets / left, 1.0) * (place < size)
        value += found * _at(gains, higher + place)
        none_yet = none_yet - found
    return value


def _targets(ranks: Ranks) -> np.ndarray:
    """Number of targets of each ranking, int64 [R]."""
    assert ranks.rows is not None  # noqa: S101
    return run_lengths(ranks.rows)


def _at(gains: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Gains of places counted from 0; none beyond the last."""
    return np.append(gains, 0.0)[np.minimum(places, len(gains))]


class Recall(RankMetric):
    """Share of held-out items that are among the first k."""

    column = "R"

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """1 at every place."""
        return np.ones_like(places)


class _FirstTarget(RankMetric):
    """A metric of the first target alone."""

    def per_row(self, ranks: Ranks, k: int) -> np.ndarray:
        """Expected gain of the place of the first target."""
        return first_target(ranks, self.gains(k))


class Hit(_FirstTarget, Recall):
    """Share of rankings with a hit among the first k; with one held-out item the same as recall."""

    column = "HR"


class NDCG(RankMetric):
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen, TOIS 2002)."""

    column = "N"

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """The discount of the place; the ideal ranking has 1."""
        return 1.0 / np.log2(places + 1.0)

    def per_row(self, ranks: Ranks, k: int) -> np.ndarray:
        """Sum of discounts, divided by that of a ranking that begins with all targets."""
        counts = _targets(ranks)
        ideal = np.cumsum(self.gains(k))[np.minimum(counts, k) - 1]
        return super().per_row(ranks, k) * counts / ideal


class MRR(_FirstTarget):
    """Mean reciprocal rank of the first target."""

    column = "MRR"

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """The reciprocal of the place."""
        return 1.0 / places


class MAP(MRR):
    """Mean average precision; with one held-out item the same as :class:`MRR`.

    Precisions are averaged over as many targets as the first k places could hold.
    """

    column = "map"

    def per_row(self, ranks: Ranks, k: int) -> np.ndarray:
        """Expected sum of the precisions at the targets, over the most targets there can be."""
        groups, gains = TieGroups.of(ranks), self.gains(k)
        size = ranks.tied + 1
        # Of the other targets with the same score, the share that comes before a place.
        others = (groups.within - 1) / np.maximum(size - 1, 1)
        total = np.zeros(len(size))
        for place in range(k):  # of the group's, counted from 0
            targets = 1 + groups.above + others * place
            total += (place < size) * targets * _at(gains, ranks.higher + place)
        summed = np.add.reduceat(total / size, groups.starts)
        return summed / np.minimum(groups.counts, k)


class Precision(RankMetric):
    """Share of the k recommended items that are held out."""

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """One item in k at every place."""
        return np.ones_like(places) / k

    def per_row(self, ranks: Ranks, k: int) -> np.ndarray:
        """Sum over the targets."""
        return super().per_row(ranks, k) * _targets(ranks)


RANK_METRICS: tuple[RankMetric, ...] = (Recall(), Hit(), NDCG(), MRR(), MAP(), Precision())
