from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_hellm.errors import ConfigError, FeatureError
from recbole_hellm.graph import knn
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
