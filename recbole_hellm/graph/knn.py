"""K-nearest neighbours among items by cosine similarity, with memory linear in the items."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_hellm.errors import ConfigError, FeatureError
from recbole_hellm.graph.faiss_search import FaissIndex, Search
from recbole_hellm.progress import progress_bar

logger = logging.getLogger(__name__)

RESOLUTION = 1e-6
"""Similarities are compared in steps of this size.

Rounding errors of a matrix product differ between machines and chunk sizes. With these steps, items
with identical features tie exactly, and the smaller index wins everywhere.
"""
_SHOW_PROGRESS_FROM = 10_000
_LARGE = 1e10
_SPARE = 8
# Catalogues up to this size are compared in one product per chunk, larger ones in blocks of
# columns: a block stays in the processor's cache, and memory stays linear in the items.
_ONE_PRODUCT = 32_768
_BLOCK = 4_096
WANTED_RECALL = 0.95
"""An approximate search is widened until it finds this share of the nearest items of a sample."""
_SAMPLE = 1_000
_SEARCHED = 4_096  # rows that faiss is asked for at a time


class NearestNeighbours(NamedTuple):
    """The K nearest items of every item, nearest first.

    Attributes
    ----------
    indices : Tensor of int64, shape [N, K]
    similarities : Tensor of float32, shape [N, K]
        Cosine similarities.
    """

    indices: Tensor
    similarities: Tensor


@torch.no_grad()
def knn_graph(
    features: np.ndarray | Tensor, k: int, chunk: int = 512, search: Search = "exact"
) -> NearestNeighbours:
    r"""The K items most similar to each item, itself included.

    .. math:: I_{ij} = e_i^\top e_j / (\lVert e_i \rVert \lVert e_j \rVert)

    Ordered by similarity descending, then index ascending; an item with K or more identical items
    can therefore miss itself. A row of zeros has similarity 0 to everything, itself included.

    Parameters
    ----------
    features : ndarray or Tensor, shape [N, D]
    k : int
        K, at most N.
    chunk : int
        Rows compared at a time. Besides the features and the result, memory is at most that of
        `chunk` x 32,768 similarities, whatever N.
    search : {"exact", "faiss-flat", "faiss-hnsw", "faiss-ivf"}
        ``faiss-flat`` finds the same neighbours by faiss: rows in which two similarities are too
        close to tell apart are searched again as by ``exact``. The other two are approximate; the
        log tells their recall, see :data:`WANTED_RECALL`.

    Returns
    -------
    NearestNeighbours
        On the device of `features`.

    Raises
    ------
    ConfigError
        If `k` is less than 1 or more than N, or `search` needs faiss and it is not installed.
    FeatureError
        If `features` is not a matrix of finite numbers.

    References
    ----------
    HeLLM, equation 3; also the item graphs of LATTICE and FREEDOM.
    """
    matrix = torch.as_tensor(features).to(torch.float32)
    if matrix.dim() != 2 or not matrix.shape[1] or not bool(torch.isfinite(matrix).all()):
        raise FeatureError(
            f"Item features of shape {tuple(matrix.shape)} cannot be compared; they must be a "
            "matrix of finite numbers."
        )
    n = len(matrix)
    if not 1 <= k <= n:
        raise ConfigError(f"knn_k={k} must lie between 1 and the number of items, {n}.")
    unit = F.normalize(_tempered(matrix), dim=1)
    if search == "exact":
        return _exact(unit, unit, k, chunk)
    index = FaissIndex(search, unit.cpu().numpy())
    if search == "faiss-flat":
        return _by_flat_index(index, unit, k, chunk)
    return _by_approximate_index(index, unit, k, chunk)


def _exact(rows: Tensor, unit: Tensor, k: int, chunk: int) -> NearestNeighbours:
    """The K rows of `unit` [N, D] nearest to each of `rows` [R, D]."""
    n = len(rows)
    indices = torch.empty(n, k, dtype=torch.int64, device=unit.device)
    similarities = torch.empty(n, k, device=unit.device)
    for part in _parts(n, chunk):
        indices[part], similarities[part] = _nearest(rows[part], unit, k)
    return NearestNeighbours(indices, similarities)


def _parts(n: int, chunk: int) -> Iterator[slice]:
    """Slices of `chunk` of `n` rows, with a bar if they are many."""
    show = n >= _SHOW_PROGRESS_FROM
    for start in progress_bar(range(0, n, chunk), show=show, desc="nearest items", leave=False):
        yield slice(start, min(start + chunk, n))


def _by_flat_index(index: FaissIndex, unit: Tensor, k: int, chunk: int) -> NearestNeighbours:
    """The neighbours of :func:`_exact`, by a flat index.

    Products of faiss are rounded differently. Where two consecutive similarities of the first K + 1
    differ by more than two steps, they have this order here too. A similarity near 0 may be exactly
    0 in one of the products. Rows with such a pair or such a similarity are searched again.
    """
    n = len(unit)
    indices = torch.empty(n, k, dtype=torch.int64, device=unit.device)
    similarities = torch.empty(n, k, device=unit.device)
    unsure = torch.zeros(n, dtype=torch.bool, device=unit.device)
    for part in _parts(n, _SEARCHED):
        columns, values = index.search(unit[part], min(k + 1, n))
        indices[part], similarities[part] = columns[:, :k], values[:, :k]
        unsure[part] = (values[:, :-1] - values[:, 1:] <= 2 * RESOLUTION).any(1)
        unsure[part] |= (values[:, :k].abs() <= 2 * RESOLUTION).any(1)
    again = unsure.nonzero()[:, 0]
    if len(again):
        indices[again], similarities[again] = _exact(unit[again], unit, k, chunk)
    logger.debug(
        "knn_search=faiss-flat: ties of %d of %d items were searched again.", len(again), n
    )
    return NearestNeighbours(indices, similarities)


def _by_approximate_index(index: FaissIndex, unit: Tensor, k: int, chunk: int) -> NearestNeighbours:
    """Neighbours by an index that may miss some, widened by what it finds for a sample."""
    n = len(unit)
    drawn = np.random.default_rng(0).choice(n, min(n, _SAMPLE), replace=False)
    sample = unit[torch.from_numpy(np.sort(drawn)).to(unit.device)]
    least = _levels(_exact(sample, unit, k, chunk).similarities[:, -1:]) - 1
    recall = _recall(index, sample, least, k)
    while recall < WANTED_RECALL and index.widen():
        recall = _recall(index, sample, least, k)
    low = recall < WANTED_RECALL
    logger.log(
        logging.WARNING if low else logging.INFO,
        "knn_search=%s found %.2f %% of the nearest items of a sample of %d items%s",
        index.search_kind,
        100 * recall,
        len(sample),
        "; knn_search=exact finds all of them." if low else ".",
    )
    indices = torch.empty(n, k, dtype=torch.int64, device=unit.device)
    similarities = torch.empty(n, k, device=unit.device)
    for part in _parts(n, _SEARCHED):
        columns, values = index.search(unit[part], k)
        columns, order = columns.sort(dim=1)
        values = values.gather(1, order)
        order = _levels(values).argsort(dim=1, descending=True, stable=True)
        indices[part], similarities[part] = columns.gather(1, order), values.gather(1, order)
    again = (indices < 0).any(1).nonzero()[:, 0]
    if len(again):
        indices[again], similarities[again] = _exact(unit[again], unit, k, chunk)
        logger.info("%d items with fewer than %d found were searched exactly.", len(again), k)
    return NearestNeighbours(indices, similarities)


def _recall(index: FaissIndex, sample: Tensor, least: Tensor, k: int) -> float:
    """The share of found items that are as similar as the K-th nearest, whose level is `least`."""
    return float((_levels(index.search(sample, k)[1]) >= least).float().mean())


def _tempered(matrix: Tensor) -> Tensor:
    """Rows whose squares would leave the range of float32, divided by their largest entry."""
    largest = torch.maximum(matrix.amax(dim=1), -matrix.amin(dim=1))
    extreme = ((largest > _LARGE) | ((largest > 0) & (largest < 1 / _LARGE))).nonzero()[:, 0]
    if not len(extreme):
        return matrix
    return matrix.index_copy(0, extreme, matrix[extreme] / largest[extreme, None])


def _nearest(rows: Tensor, unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Columns and similarities of the K rows of `unit` [N, D] nearest to each of `rows` [B, D].

    Blocks are visited in the order of their columns, so an item of a later block must be strictly
    better to enter the result; few rows of a block have such an item.
    """
    n = len(unit)
    # The first block must fill all K places.
    first = n if n <= _ONE_PRODUCT else max(_BLOCK, k)
    columns, similarities = _top_k(rows @ unit[:first].T, k)
    for start in range(first, n, _BLOCK):
        block = rows @ unit[start : start + _BLOCK].T
        better = (_levels(block.amax(dim=1)) > _levels(similarities[:, -1])).nonzero()[:, 0]
        if not len(better):
            continue
        more, values = _top_k(block[better], min(k, block.shape[1]))
        more = torch.cat([columns[better], more + start], dim=1)
        values = torch.cat([similarities[better], values], dim=1)
        order = _levels(values).argsort(dim=1, descending=True, stable=True)[:, :k]
        columns[better], similarities[better] = more.gather(1, order), values.gather(1, order)
    return columns, similarities


def _levels(similarities: Tensor) -> Tensor:
    """Similarities rounded to steps of :data:`RESOLUTION`."""
    return torch.div(similarities, RESOLUTION).round_()


def _top_k(similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Columns and values of the K largest entries of each row, ties by the smaller column.

    torch.topk breaks ties arbitrarily. A few entries beyond K show whether a row's ties end among
    them; only the other rows are searched in full.
    """
    some = min(k + _SPARE, similarities.shape[1])
    columns = similarities.topk(some, dim=1).indices.sort(dim=1).values
    values = similarities.gather(1, columns)
    levels = _levels(values)
    order = levels.argsort(dim=1, descending=True, stable=True)
    columns, levels = columns.gather(1, order), levels.gather(1, order)
    if some < similarities.shape[1]:
        unsure = (levels[:, k - 1] == levels[:, -1]).nonzero()[:, 0]
        if len(unsure):
            columns[unsure, :k] = _top_k_of_all(similarities[unsure], k)
    columns = columns[:, :k]
    return columns, similarities.gather(1, columns)


def _top_k_of_all(similarities: Tensor, k: int) -> Tensor:
    """Columns of the K largest entries, for any number of ties."""
    levels = _levels(similarities)
    # The K-th value does not depend on ties.
    last = levels.topk(k, dim=1).values[:, -1:]
    above, level = levels > last, levels == last
    room = k - above.sum(1, keepdim=True)
    chosen = above | (level & (level.cumsum(1, dtype=torch.int32) <= room))
    columns = chosen.nonzero()[:, 1].view(-1, k)
    order = levels.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)


def knn_incidence(
    features: Mapping[str, np.ndarray | Tensor],
    k: int,
    chunk: int = 512,
    search: Search = "exact",
) -> sp.csr_array:
    r"""Incidence matrix :math:`H = \Vert_m \hat I^m` of the item hypergraph.

    Column :math:`m N + j` is the hyperedge around item j in modality m; it holds every item that
    has j among its K nearest items in m.

    Parameters
    ----------
    features : Mapping of str to ndarray or Tensor, shapes [N, D_m]
        Raw features by modality; rows are the same N items.
    k : int
        K.
    chunk : int
        Rows compared at a time.
    search : str
        As for :func:`knn_graph`.

    Returns
    -------
    csr_array of float64, shape [N, number of modalities x N]
        Binary. Rows have K ones per modality, but a similarity of exactly 0 adds no entry, since
        equation 4 would choose arbitrarily among unrelated items.

    Raises
    ------
    FeatureError
        If there is no modality, or modalities differ in their number of items.

    References
    ----------
    HeLLM, section 3.3, equations 3 and 4. The authors' code keeps the value of a non-positive
    entry of the top K; here a negative one becomes 1, as in equation 4.
    """
    if not features:
        raise FeatureError(
            "The item hypergraph needs features of at least one modality; encode texts or images."
        )
    counts = {modality: len(matrix) for modality, matrix in features.items()}
    if len(set(counts.values())) > 1:
        raise FeatureError(
            f"Modalities differ in their number of items: {counts}; encode them for the same items."
        )
    blocks = []
    for matrix in features.values():
        n = len(matrix)
        near = knn_graph(matrix, k, chunk, search)
        rows, ranks = (near.similarities != 0).nonzero().cpu().numpy().T
        columns = near.indices.cpu().numpy()[rows, ranks]
        blocks.append(sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(n, n)))
    return sp.csr_array(sp.hstack(blocks))
