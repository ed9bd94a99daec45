"""Why an item may be recommended: the items of the history that the model holds for near it.

These are neighbours in the model's own item vectors. They do not tell what made the model choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_hellm.training.model_state import embedding_tables, item_vectors

NEAR = 0.1
"""The least cosine of a near item. That of random vectors of 64 numbers has a deviation of .125."""


@torch.no_grad()
def unit_item_vectors(model: Any, n_items: int) -> np.ndarray | None:
    """A model's item vectors of length 1 by internal id, [N + 1, d]; None if it has none.

    Parameters
    ----------
    model : AbstractRecommender
        In evaluation mode.
    n_items : int
        N + 1. Rows beyond, such as that of a mask token, are left out.
    """
    vectors = item_vectors(model, embedding_tables(model), model.state_dict())
    if vectors is None or vectors.ndim != 2 or len(vectors) < n_items:
        return None
    return _unit(vectors[:n_items])


def _unit(vectors: Tensor) -> np.ndarray:
    table = vectors.detach().float().cpu().numpy()
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    unit: np.ndarray = table / np.where(lengths > 0, lengths, 1)
    return unit


def nearest_in_history(
    vectors: np.ndarray, items: np.ndarray, history: np.ndarray, count: int
) -> list[list[tuple[int, float]]]:
    """For each item the nearest others of a history, with their cosines.

    Parameters
    ----------
    vectors : ndarray, shape [N + 1, d]
        As of :func:`unit_item_vectors`.
    items, history : ndarray of int64
        Item ids. An item of the history counts once.
    count : int
        The most that are given for an item.

    Returns
    -------
    list of list of (int, float)
        Nearest first; equally near ones by item id. Only cosines of :data:`NEAR` or more count.
    """
    others = np.unique(history)
    cosines = vectors[items] @ vectors[others].T
    return [_best(item, others, row, count) for item, row in zip(items, cosines, strict=True)]


def _best(
    item: int, others: Sequence[int] | np.ndarray, cosines: np.ndarray, count: int
) -> list[tuple[int, float]]:
    order = np.argsort(-cosines, kind="stable")
    near = ((int(others[place]), float(cosines[place])) for place in order)
    return [(other, cosine) for other, cosine in near if other != item and cosine >= NEAR][:count]
