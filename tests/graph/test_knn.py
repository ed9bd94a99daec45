from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from recbole_hellm.errors import ConfigError, FeatureError
from recbole_hellm.graph import knn
from recbole_hellm.graph.faiss_search import FaissIndex, Search
from recbole_hellm.graph.knn import knn_graph, knn_incidence


def literal_neighbours(features: np.ndarray, k: int) -> list[list[int]]:
    """Sort all items by (similarity, index) for every item, in Python."""
    rows = features.astype(np.float64)
    norms = [max(np.sqrt((row * row).sum()), 1e-12) for row in rows]
    result = []
    for i, row in enumerate(rows):
        cosine = [float(row @ other) / (norms[i] * norms[j]) for j, other in enumerate(rows)]
        order = sorted(range(len(rows)), key=lambda j: (-round(cosine[j], 6), j))
        result.append(order[:k])
    return result


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 7, 40, 512])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_equals_brute_force(features: np.ndarray, k: int, chunk: int) -> None:
    near = knn_graph(features, k, chunk)
    assert near.indices.tolist() == literal_neighbours(features, k)
    unit = torch.nn.functional.normalize(torch.from_numpy(features), dim=1)
    torch.testing.assert_close(near.similarities, (unit @ unit.T).gather(1, near.indices))


@pytest.mark.parametrize("chunk", [1, 5, 40])
def test_ties_go_to_the_smaller_index(features: np.ndarray, chunk: int) -> None:
    features[[3, 8, 9, 20, 31]] = features[3] * np.array([[1], [2], [0.3], [7], [1]])
    near = knn_graph(features, 3, chunk)
    assert near.indices.tolist() == literal_neighbours(features, 3)
    # Five copies, three places: the later ones miss themselves.
    assert near.indices[31].tolist() == [3, 8, 9]


@pytest.mark.parametrize("block", [1, 4, 7, 64])
@pytest.mark.parametrize("k", [1, 3, 12])
def test_blocks_of_columns_equal_brute_force(
    features: np.ndarray, monkeypatch: pytest.MonkeyPatch, k: int, block: int
) -> None:
    features[[3, 8, 9, 20, 31]] = features[3] * np.array([[1], [2], [0.3], [7], [1]])
    features[[0, 39]] = 0.0  # similar to nothing: every other item ties for them
    whole = knn_graph(features, k, chunk=16)
    monkeypatch.setattr(knn, "_ONE_PRODUCT", 8)
    monkeypatch.setattr(knn, "_BLOCK", block)
    near = knn_graph(features, k, chunk=16)
    assert near.indices.tolist() == literal_neighbours(features, k) == whole.indices.tolist()
    torch.testing.assert_close(near.similarities, whole.similarities)


def test_large_catalogues_take_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    real = knn._top_k

    def top_k(similarities: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        widths.append(similarities.shape[1])
        return real(similarities, k)

    monkeypatch.setattr(knn, "_top_k", top_k)
    n = knn._ONE_PRODUCT + 100
    clustered = np.random.default_rng(3).integers(0, 3, size=(n, 4)).astype(np.float32)
    near = knn_graph(clustered, 5, chunk=n // 2)
    assert max(widths) == knn._BLOCK
    row = n - 1
    unit = torch.nn.functional.normalize(torch.from_numpy(clustered), dim=1)
    levels = (unit[row] @ unit.T / knn.RESOLUTION).round()
    expected = np.lexsort((np.arange(n), -levels.numpy()))[:5]
    assert near.indices[row].tolist() == expected.tolist()


def test_rows_of_zeros_have_no_hyperedge(features: np.ndarray) -> None:
    features[[4, 17]] = 0.0
    near = knn_graph(features, 5)
    assert torch.isfinite(near.similarities).all()
    assert near.similarities[4].abs().max() == 0
    matrix = knn_incidence({"text": features}, 5)
    assert matrix[[4, 17]].nnz == 0
    assert matrix[[0]].nnz == 5


def test_neighbours_do_not_depend_on_the_scale_of_rows(features: np.ndarray) -> None:
    """Squares of 1e25 and of 1e-35 are no float32."""
    wanted = knn_graph(features, 5)
    scales = np.resize(np.array([1.0, 1e25, 1e-35, 1e-20], np.float32), (40, 1))
    scaled = torch.from_numpy(features * scales)
    before = scaled.clone()
    neighbours = knn_graph(scaled, 5)
    assert torch.equal(neighbours.indices, wanted.indices)
    torch.testing.assert_close(neighbours.similarities, wanted.similarities)
    assert torch.equal(scaled, before)


def test_incidence_is_the_concatenation_over_modalities(features: np.ndarray) -> None:
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 9)))
    matrix = knn_incidence({"text": features, "image": image}, 4, chunk=16)
    expected = np.zeros((40, 80))
    for block, values in enumerate((features, image.numpy())):
        for i, neighbours in enumerate(literal_neighbours(values, 4)):
            for j in neighbours:
                expected[i, 40 * block + j] = 1.0
    assert matrix.shape == (40, 80)
    assert np.array_equal(matrix.toarray(), expected)


def test_negative_similarities_become_one() -> None:
    matrix = knn_incidence({"text": np.array([[1.0, 0.1], [-1.0, 0.0]])}, 2)
    assert matrix.toarray().tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_mistakes_are_named(features: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="knn_k=41 must lie between 1 and the number of items"):
        knn_graph(features, 41)
    with pytest.raises(FeatureError, match="at least one modality"):
        knn_incidence({}, 3)
    with pytest.raises(FeatureError, match="'text': 40, 'image': 39"):
        knn_incidence({"text": features, "image": features[1:]}, 3)
    features[2, 2] = np.nan
    with pytest.raises(FeatureError, match="finite"):
        knn_graph(features, 3)


def awkward(kind: str) -> np.ndarray:
    """Features of 300 items among which are ties."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    if kind == "duplicates":  # of different lengths
        rows[rng.integers(0, 300, 120)] = rows[5]
        rows[200:260] = rows[100:160] * rng.uniform(0.1, 9, size=(60, 1)).astype(np.float32)
    elif kind == "zeros":
        rows[rng.integers(0, 300, 40)] = 0
    elif kind == "grid":  # nearly everything ties
        rows = rng.integers(-1, 2, size=(300, 4)).astype(np.float32)
    elif kind == "disjoint":  # similarities of exactly 0 among the nearest
        rows = np.kron(np.eye(100), np.ones((3, 1))).astype(np.float32)
        rows *= rng.uniform(0.5, 2, size=(300, 1)).astype(np.float32)
    elif kind == "close":  # pairs a little more and a little less than a step apart
        rows[150:] = rows[:150] + rng.normal(size=(150, 8)).astype(np.float32) * 1e-3
    return rows


@pytest.mark.parametrize("kind", ["plain", "duplicates", "zeros", "grid", "disjoint", "close"])
@pytest.mark.parametrize("k", [1, 4, 299, 300])
def test_the_flat_index_gives_the_graph_of_exact_search(kind: str, k: int) -> None:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    rows = awkward(kind)
    exact, flat = knn_graph(rows, k), knn_graph(rows, k, search="faiss-flat")
    assert torch.equal(exact.indices, flat.indices)
    torch.testing.assert_close(exact.similarities, flat.similarities, rtol=0, atol=1e-6)
    wanted, found = (
        knn_incidence({"text": rows, "image": rows[:, :3]}, k, search=search)
        for search in ("exact", "faiss-flat")
    )
    assert (wanted != found).nnz == 0


def test_only_rows_with_ties_are_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    rows = awkward("plain")
    rows[[3, 50, 299]] = rows[3]
    searched: list[int] = []
    real = knn._nearest

    def nearest(some: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        searched.append(len(some))
        return real(some, *others)

    monkeypatch.setattr(knn, "_nearest", nearest)
    near = knn_graph(rows, 5, search="faiss-flat")
    # Those that have the three among their first six; about 6 / 300 of the items, and themselves.
    assert 3 <= sum(searched) < 60
    assert near.indices[299, :3].tolist() == [3, 50, 299]


@pytest.mark.parametrize("search", ["faiss-hnsw", "faiss-ivf"])
@pytest.mark.parametrize("kind", ["plain", "duplicates", "zeros", "disjoint"])
def test_approximate_search_is_nearly_exact_and_says_how_nearly(
    kind: str, search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    rows = awkward(kind)
    exact = knn_graph(rows, 4)
    with caplog.at_level("INFO", logger="recbole_hellm"):
        near = knn_graph(rows, 4, search=search)
    told = re.search(rf"knn_search={search} found (\S+) % of .* sample of 300 items", caplog.text)
    assert told
    least = exact.similarities[:, -1:] - 2e-6
    recall = float((near.similarities >= least).float().mean())
    # Rows that the index leaves incomplete are searched exactly, so the result may be better.
    assert recall >= knn.WANTED_RECALL
    assert recall >= float(told[1]) / 100 - 1e-3
    assert all(len({*row}) == 4 for row in near.indices.tolist())
    assert int(near.indices.min()) >= 0
    levels = torch.div(near.similarities, knn.RESOLUTION).round()
    falls = levels[:, 1:] < levels[:, :-1]
    assert bool((falls | (near.indices[:, 1:] > near.indices[:, :-1])).all())
    again = knn_graph(rows, 4, search=search)
    assert torch.equal(again.indices, near.indices)


def test_a_recall_that_stays_low_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    monkeypatch.setattr(knn, "_SAMPLE", 7)
    monkeypatch.setattr(FaissIndex, "widen", lambda index: False)
    monkeypatch.setattr(knn, "WANTED_RECALL", 1.01)
    with caplog.at_level("INFO", logger="recbole_hellm"):
        knn_graph(awkward("plain"), 4, search="faiss-ivf")
    (record,) = [one for one in caplog.records if "knn_search=faiss-ivf" in one.getMessage()]
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith("a sample of 7 items; knn_search=exact finds all of them.")


def test_what_an_index_does_not_find_is_searched_exactly(
    features: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    real = FaissIndex.search

    def search(index: FaissIndex, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        indices, similarities = real(index, rows, k)
        indices[::3, -1], similarities[::3, -1] = -1, float(np.finfo(np.float32).min)
        return indices, similarities

    monkeypatch.setattr(FaissIndex, "search", search)
    near, exact = knn_graph(features, 5, search="faiss-ivf"), knn_graph(features, 5)
    assert torch.equal(near.indices[::3], exact.indices[::3])
