from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_hellm.errors import ConfigError, FeatureError
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


def test_rows_of_zeros_have_no_hyperedge(features: np.ndarray) -> None:
    features[[4, 17]] = 0.0
    near = knn_graph(features, 5)
    assert torch.isfinite(near.similarities).all()
    assert near.similarities[4].abs().max() == 0
    matrix = knn_incidence({"text": features}, 5)
    assert matrix[[4, 17]].nnz == 0
    assert matrix[[0]].nnz == 5


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
