"""Nearest neighbours by faiss: candidates from an index of unit vectors.

faiss is imported when an index is built, never before.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recbole_hellm.errors import ConfigError, install_extra

Search = Literal["exact", "faiss-flat", "faiss-hnsw", "faiss-ivf"]
"""How nearest items are searched: by this package, or by an index of faiss."""
_LINKS = 32
_BUILDING = 100
_BREADTH = {"faiss-hnsw": 64, "faiss-ivf": 8}
_BROADEST = 1_024
# faiss asks for at least 39 points for each list, and more than 64 improve its lists little.
_LEAST_PER_LIST = 39
_MOST_PER_LIST = 64


def faiss_library(needed_by: str, extra: str = "faiss", otherwise: str = "") -> Any:
    """The module ``faiss``.

    Parameters
    ----------
    needed_by : str
        The setting that needs it, as the user writes it.
    extra : str
        The extra that installs it.
    otherwise : str
        The end of the sentence where there is another way out.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"{needed_by} needs faiss ({error}); {install_extra(extra)}{otherwise}."
        ) from error
    return faiss


class FaissIndex:
    """An index of unit vectors by inner product.

    It is the same each time that it is built on one machine: faiss draws with fixed seeds, and a
    graph of HNSW is built by one thread, since its links depend on the order of insertion. Searches
    use as many threads as torch.

    Parameters
    ----------
    search : {"faiss-flat", "faiss-hnsw", "faiss-ivf"}
        All vectors; the graph of Malkov and Yashunin, 2018; or about ``4 sqrt(N)`` lists of
        vectors, each around a centre.
    unit : ndarray of float32, shape [N, D]
        Vectors of length 1 or 0.

    Attributes
    ----------
    breadth : int or None
        Candidates that a search of HNSW keeps (``efSearch``), or lists that one of IVF reads
        (``nprobe``). None for the flat index.

    Raises
    ------
    ConfigError
        If faiss is not installed.
    """

    def __init__(self, search: Search, unit: np.ndarray) -> None:
        self._faiss = faiss_library(f"knn_search={search}", otherwise=", or use knn_search=exact")
        self.search_kind = search
        self._index = self._built(search, np.ascontiguousarray(unit, dtype=np.float32))
        self.breadth = _BREADTH.get(search)
        self._apply()

    def _built(self, search: Search, unit: np.ndarray) -> Any:
        faiss, (n, width) = self._faiss, unit.shape
        index: Any
        if search == "faiss-hnsw":
            index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = _BUILDING
            with self._threads(1):
                index.add(unit)
            return index
        index = faiss.IndexFlatIP(width)
        if search == "faiss-ivf":
            self._lists = max(1, min(int(4 * math.sqrt(n)), n // _LEAST_PER_LIST))
            # The index of the lists' centres lives as long as the one that reads them.
            self._centres = index
            index = faiss.IndexIVFFlat(
                self._centres, width, self._lists, faiss.METRIC_INNER_PRODUCT
            )
            index.cp.min_points_per_centroid = 1
            index.cp.max_points_per_centroid = _MOST_PER_LIST
        with self._threads(torch.get_num_threads()):
            if search == "faiss-ivf":
                index.train(unit)
            index.add(unit)
        return index

    def search(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices and similarities of the K vectors nearest to each of `rows`, nearest first.

        Parameters
        ----------
        rows : Tensor of float32, shape [B, D]
            On any device.
        k : int

        Returns
        -------
        tuple of Tensor, shapes [B, K]
            On the device of `rows`. Where an approximate index found fewer than K, the last indices
            are -1.
        """
        with self._threads(torch.get_num_threads()):
            similarities, indices = self._index.search(np.ascontiguousarray(rows.cpu().numpy()), k)
        device = rows.device
        return torch.from_numpy(indices).to(device), torch.from_numpy(similarities).to(device)

    def widen(self) -> bool:
        """Double :attr:`breadth`; False, and nothing is done, where that is no use."""
        most = self._lists if self.search_kind == "faiss-ivf" else _BROADEST
        if self.breadth is None or self.breadth >= most:
            return False
        self.breadth = min(2 * self.breadth, most)
        self._apply()
        return True

    def _apply(self) -> None:
        if self.search_kind == "faiss-hnsw":
            self._index.hnsw.efSearch = self.breadth
        elif self.search_kind == "faiss-ivf":
            self.breadth = min(self.breadth or 1, self._lists)
            self._index.nprobe = self.breadth

    @contextlib.contextmanager
    def _threads(self, count: int) -> Iterator[None]:
        """Let faiss use `count` threads within."""
        before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(count)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(before)
