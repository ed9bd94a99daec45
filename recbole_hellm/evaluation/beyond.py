"""What lists of recommendations are like, apart from whether they are right.

RecBole's own list metrics are computed by its classes, as published with it. Some of them are not
what their names say (see :func:`list_metrics`), so entropy is here once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.metrics import TailPercentage
from recbole.evaluator.register import metrics_dict

from recbole_hellm.errors import ConfigError, DataError

LIST_METRICS = frozenset(
    name for name, cls in metrics_dict.items() if next(iter(cls.metric_need)) == "rec.items"
)
"""Metrics that RecBole computes from the recommended lists alone."""

_CELLS = 1 << 22  # gathered feature values that are held at a time


class _QuickTailPercentage(TailPercentage):
    """RecBole's metric, which searches a list for every cell, asked once for each item."""

    def get_tail(self, item_matrix: np.ndarray, count_items: dict[int, int]) -> np.ndarray:
        items, places = np.unique(item_matrix, return_inverse=True)
        return super().get_tail(items[None], count_items)[0][places.reshape(item_matrix.shape)]


_CLASSES = {**metrics_dict, "tailpercentage": _QuickTailPercentage}


def list_metrics(
    names: Iterable[str],
    lists: np.ndarray,
    counts: np.ndarray,
    topk: Sequence[int],
    tail_ratio: float | None = None,
) -> dict[str, float]:
    r"""RecBole's metrics of lists, keyed ``metric@k`` in lower case.

    As RecBole has them: coverage and Gini index take N + 1 items, padding being one; the tail is
    that of the items trained on, so that items never trained on are not in it; ``shannonentropy``
    divides the entropy by the number of recommended items, so that it *falls* where more items are
    recommended equally often.

    Parameters
    ----------
    names : iterable of str
        Some of :data:`LIST_METRICS`.
    lists : ndarray of int64, shape [U, K]
        Item ids, best first.
    counts : ndarray of int64, shape [N + 1]
        Training interactions by item id.
    topk : sequence of int
        At most K each.
    tail_ratio : float, optional
        The tail: this share of the items, or the items with up to so many interactions; RecBole's
        .1 by default.
    """
    config: dict[str, Any] = {
        "topk": list(topk),
        "metric_decimal_place": 12,
        "tail_ratio": tail_ratio,
    }
    data = DataStruct()
    data.set("rec.items", torch.from_numpy(lists))
    data.set("data.num_items", len(counts))
    trained = np.flatnonzero(counts)
    pairs = zip(trained.tolist(), counts[trained].tolist(), strict=True)
    data.set("data.count_items", dict(pairs))
    results: dict[str, float] = {}
    for name in names:
        results.update(_CLASSES[name](config).calculate_metric(data))
    return {key.lower(): float(value) for key, value in results.items()}


def beyond_accuracy(
    lists: np.ndarray,
    counts: np.ndarray,
    n_users: int,
    histories: tuple[np.ndarray, np.ndarray],
    features: np.ndarray | None = None,
    *,
    topk: Sequence[int] = (10, 20),
    tail_ratio: float | None = None,
) -> dict[str, float]:
    """All metrics of lists: RecBole's, and those of this module.

    Parameters
    ----------
    lists : ndarray of int64, shape [U, K]
        Item ids from 1 to N, best first, each once in a row.
    counts : ndarray of int64, shape [N + 1]
        Training interactions by item id; that of padding, 0, is ignored.
    n_users : int
        Users of the training data.
    histories : (rows, items)
        Training interactions of the U users, rows numbered as in `lists`
        (:meth:`Histories.training`).
    features : ndarray, shape [N, D], optional
        Item features; row i - 1 is item i. Without them there is no diversity.
    topk : sequence of int
        At most K each.
    tail_ratio : float, optional
        See :func:`list_metrics`.

    Returns
    -------
    dict of str to float
        ``itemcoverage``, ``giniindex``, ``shannonentropy``, ``averagepopularity``,
        ``tailpercentage``, ``entropy``, ``novelty``, ``popularitylift``, ``personalisation`` and
        ``diversity``, each ``@k``; no ``diversity@1``.

    Raises
    ------
    ConfigError
        If a list is shorter than a k.
    DataError
        If the lists hold anything but item ids, or features or histories do not fit.
    """
    if min(topk) < 1 or max(topk) > lists.shape[1]:
        raise ConfigError(f"topk={list(topk)} needs lists of that length, not {lists.shape[1]}.")
    if lists.size == 0 or lists.min() < 1 or lists.max() >= len(counts):
        raise DataError(f"Lists hold something other than the item ids 1 to {len(counts) - 1}.")
    if features is not None and len(features) != len(counts) - 1:
        raise DataError(f"{len(features)} rows of features do not fit {len(counts) - 1} items.")
    results = list_metrics(sorted(LIST_METRICS), lists, counts, topk, tail_ratio)
    for k in topk:
        shown = lists[:, :k]
        results[f"entropy@{k}"] = entropy(shown)
        results[f"novelty@{k}"] = novelty(shown, counts, n_users)
        results[f"popularitylift@{k}"] = popularity_lift(shown, counts, histories)
        if len(lists) > 1:
            results[f"personalisation@{k}"] = personalisation(shown)
        if features is not None and k > 1:
            results[f"diversity@{k}"] = diversity(shown, features)
    return results


def entropy(lists: np.ndarray) -> float:
    r"""Shannon entropy of the recommended items in bits, :math:`-\sum_i p_i \log_2 p_i`.

    :math:`p_i` is item i's share of all places, [U, K]; at most :math:`\log_2 N`.
    """
    _, places = np.unique(lists, return_counts=True)
    shares = places / lists.size
    return float(-(shares * np.log2(shares)).sum())


def novelty(lists: np.ndarray, counts: np.ndarray, n_users: int) -> float:
    r"""Mean self-information of the recommended items in bits, :math:`-\log_2 (c_i / |U|)`.

    :math:`c_i` are the training interactions with item i, so the share of users who met it where
    nobody meets an item twice. Items never trained on count half an interaction, which makes them
    one bit more novel than items met once. Vargas and Castells, RecSys 2011.
    """
    information = -np.log2(np.maximum(counts, 0.5) / n_users)
    return float(information[lists].mean())


def popularity_lift(
    lists: np.ndarray, counts: np.ndarray, histories: tuple[np.ndarray, np.ndarray]
) -> float:
    r"""How much more popular recommendations are than what users had, relative to the latter.

    :math:`(GAP_r - GAP_h) / GAP_h`, where a group average popularity is the mean over users of the
    mean of :math:`c_i` over a user's list, or training history. 0 is a calibrated model, above is
    popularity bias. Abdollahpouri et al., RMSE workshop at RecSys 2019.

    Raises
    ------
    DataError
        If a user has no training history, or a row is out of range.
    """
    rows, items = histories
    lengths = np.bincount(rows, minlength=len(lists))
    if len(lengths) != len(lists) or not lengths.all():
        raise DataError("Popularity lift needs a training history for each list, and no other.")
    had = (np.bincount(rows, weights=counts[items]) / lengths).mean()
    return float(counts[lists].mean() / had - 1)


def personalisation(lists: np.ndarray) -> float:
    r"""One less the mean share of items that two users' lists have in common.

    Over all pairs of the U > 1 users: an item in :math:`n_i` lists is common to
    :math:`n_i (n_i - 1) / 2` pairs.
    """
    users, length = lists.shape
    _, shown = np.unique(lists, return_counts=True)
    return float(1 - (shown * (shown - 1.0)).sum() / (users * (users - 1.0) * length))


def diversity(lists: np.ndarray, features: np.ndarray) -> float:
    r"""Mean distance of two items within a list: one less the cosine of their features.

    Per list :math:`1 - (\|\sum_i x_i\|^2 - \sum_i \|x_i\|^2) / (K (K - 1))` over unit vectors
    :math:`x_i`, which is the mean over pairs. An item whose features are all zero is at distance 1
    from every other. Smyth and McClave, ICCBR 2001; Ziegler et al., WWW 2005.

    Parameters
    ----------
    lists : ndarray of int64, shape [U, K]
        K at least 2.
    features : ndarray, shape [N, D]
        Row i - 1 is item i.
    """
    length = lists.shape[1]
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    units = features / np.where(norms > 0, norms, 1)
    step = max(1, _CELLS // (length * features.shape[1]))
    similar = 0.0
    for start in range(0, len(lists), step):
        chosen = units[lists[start : start + step] - 1]
        squares = np.square(chosen.sum(axis=1, dtype=np.float64)).sum()
        similar += squares - np.square(chosen, dtype=np.float64).sum()
    return float(1 - similar / (len(lists) * length * (length - 1)))
