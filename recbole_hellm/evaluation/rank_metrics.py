"""The metrics of ranks: how high the one held-out item stands in a user's ranking."""

from __future__ import annotations

import numpy as np

from recbole_hellm.evaluation.metric import RankMetric


class Recall(RankMetric):
    """Share of held-out items that are among the first k."""

    column = "R"

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """1 at every place."""
        return np.ones_like(places)


class Hit(Recall):
    """Share of users with a hit among the first k; with one held-out item the same as recall."""

    column = "HR"


class NDCG(RankMetric):
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen, TOIS 2002)."""

    column = "N"

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """The discount of the place; the ideal ranking has 1."""
        return 1.0 / np.log2(places + 1.0)


class MRR(RankMetric):
    """Mean reciprocal rank."""

    column = "MRR"

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """The reciprocal of the place."""
        return 1.0 / places


class MAP(MRR):
    """Mean average precision; with one held-out item the same as :class:`MRR`."""

    column = "map"


class Precision(RankMetric):
    """Share of the k recommended items that are held out."""

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """One item in k at every place."""
        return np.ones_like(places) / k


RANK_METRICS: tuple[RankMetric, ...] = (Recall(), Hit(), NDCG(), MRR(), MAP(), Precision())
