"""The metrics of recommended lists: what they are like, apart from whether they are right.

RecBole's own list metrics are computed by its classes. Some of them differ from what their names
say (see :class:`RecBoleListMetric`), so :class:`Entropy` is here as well.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from recbole.evaluator import metrics as theirs
from recbole.evaluator.collector import DataStruct

from recbole_hellm.errors import DataError
from recbole_hellm.evaluation.metric import ListMetric
from recbole_hellm.evaluation.recommended import Catalogue, RecommendedLists

_CELLS = 1 << 22  # gathered feature values that are held at a time


class _QuickTailPercentage(theirs.TailPercentage):
    """RecBole's metric, which searches a list for every cell, asked once for each item."""

    def get_tail(self, item_matrix: np.ndarray, count_items: dict[int, int]) -> np.ndarray:
        items, places = np.unique(item_matrix, return_inverse=True)
        return super().get_tail(items[None], count_items)[0][places.reshape(item_matrix.shape)]


class RecBoleListMetric(ListMetric):
    """A list metric that RecBole's class computes, rounded to 12 decimals.

    As RecBole has them: coverage and Gini index take N + 1 items, padding being one; the tail is
    that of the items trained on, so that items never trained on are not in it; ``shannonentropy``
    divides the entropy by the number of recommended items, so that it *falls* where more items are
    recommended equally often.
    """

    computed_by: ClassVar[type]

    def value(self, lists: RecommendedLists) -> float:
        """The metric of lists that are cut to k items."""
        return self.at(lists, lists.items.shape[1])

    def at(self, lists: RecommendedLists, k: int) -> float:
        """The metric at `k`, which RecBole's class cuts the lists to by itself."""
        counts = lists.catalogue.counts
        config: dict[str, Any] = {
            "topk": [k],
            "metric_decimal_place": 12,
            "tail_ratio": lists.catalogue.tail_ratio,
        }
        data = DataStruct()
        data.set("rec.items", torch.from_numpy(lists.items))
        data.set("data.num_items", len(counts))
        trained = np.flatnonzero(counts)
        pairs = zip(trained.tolist(), counts[trained].tolist(), strict=True)
        data.set("data.count_items", dict(pairs))
        (value,) = self.computed_by(config).calculate_metric(data).values()
        return float(value)


class AveragePopularity(RecBoleListMetric):
    """Mean number of training interactions of the recommended items."""

    bigger_is_better = False
    column, spec = "mean popularity", ".1f"
    computed_by = theirs.AveragePopularity


class GiniIndex(RecBoleListMetric):
    """Inequality of how often items are recommended."""

    bigger_is_better = False
    column = "Gini"
    computed_by = theirs.GiniIndex


class ItemCoverage(RecBoleListMetric):
    """Share of the items that are recommended to anybody."""

    column = "coverage"
    computed_by = theirs.ItemCoverage


class ShannonEntropy(RecBoleListMetric):
    """Entropy of the recommended items in nats, divided by how many different ones there are."""

    computed_by = theirs.ShannonEntropy


class TailPercentage(RecBoleListMetric):
    """Share of places with the least popular items that were trained on."""

    computed_by = _QuickTailPercentage


class Entropy(ListMetric):
    r"""Shannon entropy of the recommended items in bits, :math:`-\sum_i p_i \log_2 p_i`.

    :math:`p_i` is item i's share of all places, [U, K]; at most :math:`\log_2 N`.
    """

    column, spec = "entropy, bits", ".2f"

    def value(self, lists: RecommendedLists) -> float:
        """The entropy over all lists."""
        _, places = np.unique(lists.items, return_counts=True)
        shares = places / lists.items.size
        return float(-(shares * np.log2(shares)).sum())


class Novelty(ListMetric):
    r"""Mean self-information of the recommended items in bits, :math:`-\log_2 (c_i / |U|)`.

    :math:`c_i` are the training interactions with item i, so the share of users who met it where
    nobody meets an item twice. Items never trained on count half an interaction, which makes them
    one bit more novel than items met once. Vargas and Castells, RecSys 2011.
    """

    column, spec = "novelty, bits", ".2f"

    def value(self, lists: RecommendedLists) -> float:
        """The mean over all places."""
        catalogue = lists.catalogue
        information = -np.log2(np.maximum(catalogue.counts, 0.5) / catalogue.n_users)
        return float(information[lists.items].mean())


class PopularityLift(ListMetric):
    r"""How much more popular recommendations are than what users had, relative to the latter.

    :math:`(GAP_r - GAP_h) / GAP_h`, where a group average popularity is the mean over users of the
    mean of :math:`c_i` over a user's list, or training history. 0 is a calibrated model, above is
    popularity bias. Abdollahpouri et al., RMSE workshop at RecSys 2019.
    """

    bigger_is_better = False
    column, spec = "popularity lift", "+.2f"

    def value(self, lists: RecommendedLists) -> float:
        """The lift of all lists over all histories.

        Raises
        ------
        DataError
            If a user has no training history, or a row is out of range.
        """
        (rows, items), counts = lists.histories, lists.catalogue.counts
        lengths = np.bincount(rows, minlength=len(lists.items))
        if len(lengths) != len(lists.items) or not lengths.all():
            raise DataError("Popularity lift needs a training history for each list, and no other.")
        had = (np.bincount(rows, weights=counts[items]) / lengths).mean()
        return float(counts[lists.items].mean() / had - 1)


class Personalisation(ListMetric):
    r"""One less the mean share of items that two users' lists have in common.

    Over all pairs of the U > 1 users: an item in :math:`n_i` lists is common to
    :math:`n_i (n_i - 1) / 2` pairs.
    """

    column = "personalisation"

    def value(self, lists: RecommendedLists) -> float:
        """The mean over all pairs of users."""
        users, length = lists.items.shape
        _, shown = np.unique(lists.items, return_counts=True)
        return float(1 - (shown * (shown - 1.0)).sum() / (users * (users - 1.0) * length))

    def lacks(self, catalogue: Catalogue, users: int, k: int) -> str:
        """A second user."""
        return "" if users > 1 else "two users or more"


class Diversity(ListMetric):
    r"""Mean distance of two items within a list: one less the cosine of their features.

    Per list :math:`1 - (\|\sum_i x_i\|^2 - \sum_i \|x_i\|^2) / (K (K - 1))` over unit vectors
    :math:`x_i`, which is the mean over pairs. An item whose features are all zero is at distance 1
    from every other. Smyth and McClave, ICCBR 2001; Ziegler et al., WWW 2005.
    """

    column = "diversity"

    def value(self, lists: RecommendedLists) -> float:
        """The mean over all pairs of items of all lists, K being at least 2."""
        features, length = lists.catalogue.features, lists.items.shape[1]
        if features is None:
            raise DataError("Diversity needs item features, and the dataset has none.")
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        units = features / np.where(norms > 0, norms, 1)
        step = max(1, _CELLS // (length * features.shape[1]))
        similar = 0.0
        for start in range(0, len(lists.items), step):
            chosen = units[lists.items[start : start + step] - 1]
            squares = np.square(chosen.sum(axis=1, dtype=np.float64)).sum()
            similar += squares - np.square(chosen, dtype=np.float64).sum()
        return float(1 - similar / (len(lists.items) * length * (length - 1)))

    def lacks(self, catalogue: Catalogue, users: int, k: int) -> str:
        """Item features, or a second item."""
        if k < 2:
            return "lists of two items or more"
        return "" if catalogue.features is not None else "item features"


LIST_METRICS: tuple[ListMetric, ...] = (
    ItemCoverage(),
    GiniIndex(),
    Entropy(),
    Novelty(),
    Diversity(),
    AveragePopularity(),
    PopularityLift(),
    Personalisation(),
    ShannonEntropy(),
    TailPercentage(),
)
"""In the order of tables; the last two are not shown there."""
