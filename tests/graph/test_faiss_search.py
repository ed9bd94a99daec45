from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from recbole_hellm.errors import ConfigError
from recbole_hellm.graph.faiss_search import FaissIndex, Search
from recbole_hellm.graph.knn import knn_graph

APPROXIMATE: list[Search] = ["faiss-hnsw", "faiss-ivf"]


@pytest.fixture(scope="module")
def unit() -> np.ndarray:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    rows = np.random.default_rng(2).normal(size=(900, 12)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_flat_index_gives_the_largest_products(unit: np.ndarray) -> None:
    index = FaissIndex("faiss-flat", unit)
    indices, similarities = index.search(torch.from_numpy(unit[:50]), 7)
    products = unit[:50] @ unit.T
    assert indices.tolist() == np.argsort(-products, axis=1, kind="stable")[:, :7].tolist()
    expected = np.take_along_axis(products, indices.numpy(), axis=1)
    np.testing.assert_allclose(similarities.numpy(), expected, atol=1e-6)
    assert index.breadth is None and not index.widen()


@pytest.mark.parametrize("search", APPROXIMATE)
def test_an_approximate_index_finds_more_if_widened(search: Search, unit: np.ndarray) -> None:
    index, rows = FaissIndex(search, unit), torch.from_numpy(unit)
    exact = np.sort(-(unit @ unit.T), axis=1)[:, 4]
    shares, breadths = [], []
    while True:
        found = -index.search(rows, 5)[1].numpy()
        shares.append(float((found <= exact[:, None] + 1e-6).mean()))
        breadths.append(index.breadth)
        if not index.widen():
            break
    assert breadths[1:] == [min(2 * narrow, breadths[-1]) for narrow in breadths[:-1]]
    assert breadths[-1] == (1_024 if search == "faiss-hnsw" else 900 // 39)
    # With all lists, IVF compares everything.
    assert shares[0] < shares[-1] if search == "faiss-ivf" else shares[-1] > 0.99
    assert search == "faiss-hnsw" or shares[-1] == 1


@pytest.mark.parametrize("search", APPROXIMATE)
def test_an_index_is_the_same_each_time(search: Search, unit: np.ndarray) -> None:
    """Also with several threads, of which the graph of HNSW is not built."""
    usual = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            found.append(FaissIndex(search, unit).search(torch.from_numpy(unit), 5)[0])
    finally:
        torch.set_num_threads(usual)
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


def test_threads_of_faiss_stay_as_they_were(unit: np.ndarray) -> None:
    faiss = pytest.importorskip("faiss")
    before = faiss.omp_get_max_threads()
    FaissIndex("faiss-hnsw", unit).search(torch.from_numpy(unit[:3]), 2)
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("search", ["faiss-flat", *APPROXIMATE])
def test_a_missing_faiss_is_told(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    features = np.eye(4, dtype=np.float32)
    wanted = rf"knn_search={search} needs faiss \(.*\); run `pip install 'recbole-hellm\[faiss\]'`"
    with pytest.raises(ConfigError, match=wanted):
        knn_graph(features, 2, search=search)
    assert knn_graph(features, 2).indices.shape == (4, 2)


def test_graphs_import_neither_recbole_nor_faiss() -> None:
    code = "import sys, recbole_hellm.graph as g; print({'faiss', 'recbole'} & {*sys.modules})"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
