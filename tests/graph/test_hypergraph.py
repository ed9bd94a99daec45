from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_hellm.graph.hypergraph import ItemHypergraph, UserHypergraph


@pytest.fixture
def incidence() -> np.ndarray:
    rng = np.random.default_rng(3)
    matrix = (rng.random((8, 6)) < 0.4).astype(np.float64)
    matrix[5] = 0.0  # a node in no hyperedge
    matrix[6] = 0.0
    matrix[:, 5] = 0.0
    matrix[6, 5] = 1.0  # a node alone in its only hyperedge
    matrix[7, 1] = 1.0
    return matrix


def literal_user_operator(a: np.ndarray) -> np.ndarray:
    gram = a @ a.T
    np.fill_diagonal(gram, 0.0)
    degree = gram.sum(1)
    return np.stack([row / d if d else 0 * row for row, d in zip(gram, degree, strict=True)])


def literal_item_operator(h: np.ndarray) -> np.ndarray:
    gram = h @ h.T
    degree = gram.sum(1)
    result = np.zeros_like(gram)
    for i, j in zip(*np.nonzero(gram), strict=True):
        result[i, j] = gram[i, j] / np.sqrt(degree[i] * degree[j])
    return result


CASES = [(UserHypergraph, literal_user_operator), (ItemHypergraph, literal_item_operator)]


@pytest.mark.parametrize(("kind", "literal"), CASES)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_convolution_equals_the_dense_formula(
    incidence: np.ndarray, kind: type, literal: Callable[[np.ndarray], np.ndarray], layers: int
) -> None:
    torch.manual_seed(0)
    nodes = torch.randn(8, 4, dtype=torch.float64)
    operator = torch.from_numpy(literal(incidence))
    hypergraph = kind(sp.csr_array(incidence), torch.float64)
    expected = torch.linalg.matrix_power(operator, layers) @ nodes
    torch.testing.assert_close(hypergraph.propagate(nodes, layers), expected)


@pytest.mark.parametrize(("kind", "literal"), CASES)
def test_the_factored_form_is_the_same_operator_in_float32(
    incidence: np.ndarray, kind: type, literal: Callable[[np.ndarray], np.ndarray]
) -> None:
    hypergraph = kind(sp.csr_array(incidence))
    matrix = hypergraph(torch.eye(8)).double()
    torch.testing.assert_close(matrix, torch.from_numpy(literal(incidence)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [UserHypergraph, ItemHypergraph])
def test_gradient(incidence: np.ndarray, kind: type) -> None:
    torch.manual_seed(0)
    hypergraph = kind(sp.csr_array(incidence), torch.float64)
    nodes = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: hypergraph.propagate(x, 2), (nodes,))


def test_rows_without_neighbours_are_zero(incidence: np.ndarray) -> None:
    nodes = torch.randn(8, 2, dtype=torch.float64)
    users = UserHypergraph(sp.csr_array(incidence), torch.float64)(nodes)
    items = ItemHypergraph(sp.csr_array(incidence), torch.float64)(nodes)
    # Alone in a hyperedge, a user has no neighbour; an item keeps its diagonal.
    assert users[[5, 6]].abs().max() < 1e-15
    assert items[5].abs().max() == 0
    torch.testing.assert_close(items[6], nodes[6])


def test_user_rows_are_stochastic(incidence: np.ndarray) -> None:
    ones = torch.ones(8, 1, dtype=torch.float64)
    sums = UserHypergraph(sp.csr_array(incidence), torch.float64)(ones)[:, 0]
    expected = torch.ones(8, dtype=torch.float64)
    expected[[5, 6]] = 0.0
    torch.testing.assert_close(sums, expected)


def test_nothing_of_size_nodes_by_nodes_is_kept() -> None:
    rng = np.random.default_rng(0)
    matrix = sp.csr_array((rng.random((400, 300)) < 0.02).astype(np.float64))
    for hypergraph in (UserHypergraph(matrix), ItemHypergraph(matrix)):
        entries = sum(buffer.numel() for buffer in hypergraph.buffers())
        assert entries < 8 * matrix.nnz + 8 * (400 + 300) < 400 * 400
