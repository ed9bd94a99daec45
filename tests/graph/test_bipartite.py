from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_hellm.errors import DataError
from recbole_hellm.graph.bipartite import BipartiteGraph, interaction_matrix

USERS = np.array([0, 0, 1, 1, 1, 3, 0])
ITEMS = np.array([0, 1, 1, 2, 4, 4, 1])  # user 2 and item 3 are isolated; (0, 1) occurs twice
M, N = 4, 5


def literal_light_gcn(
    user: torch.Tensor, item: torch.Tensor, layers: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the powers of the dense (M + N)-square normalised adjacency matrix."""
    adjacency = torch.zeros(M + N, M + N, dtype=torch.float64)
    for u, i in zip(USERS, ITEMS, strict=True):
        adjacency[u, M + i] = adjacency[M + i, u] = 1.0
    degree = adjacency.sum(1)
    for row in range(M + N):
        for column in range(M + N):
            if adjacency[row, column]:
                adjacency[row, column] /= torch.sqrt(degree[row] * degree[column])
    nodes = torch.cat([user, item])
    total = nodes.clone()
    for _ in range(layers):
        nodes = adjacency @ nodes
        total += nodes
    return tuple((total / (layers + 1)).split([M, N]))


@pytest.fixture
def tables() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(M, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(N, 3, dtype=torch.float64, requires_grad=True),
    )


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_light_gcn_is_the_mean_over_layers(
    tables: tuple[torch.Tensor, torch.Tensor], layers: int
) -> None:
    graph = BipartiteGraph(USERS, ITEMS, M, N, torch.float64)
    for own, literal in zip(
        graph.light_gcn(*tables, layers), literal_light_gcn(*tables, layers), strict=True
    ):
        torch.testing.assert_close(own, literal)


def test_isolated_nodes_receive_nothing(tables: tuple[torch.Tensor, torch.Tensor]) -> None:
    user, item = BipartiteGraph(USERS, ITEMS, M, N, torch.float64).propagate(*tables)
    assert torch.equal(user[2], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(item[3], torch.zeros(3, dtype=torch.float64))


def test_gradient(tables: tuple[torch.Tensor, torch.Tensor]) -> None:
    graph = BipartiteGraph(USERS, ITEMS, M, N, torch.float64)
    assert torch.autograd.gradcheck(lambda u, i: graph.light_gcn(u, i, 2), tables)


def test_interactions_count_once() -> None:
    matrix = interaction_matrix(USERS, ITEMS, M, N)
    assert matrix.sum() == len(set(zip(USERS.tolist(), ITEMS.tolist(), strict=True)))
    assert set(matrix.data) == {1.0}


def test_numbers_outside_the_matrix_are_named() -> None:
    with pytest.raises(DataError, match=r"item numbers 0 to 4.*0\.\.3"):
        interaction_matrix(USERS, ITEMS, M, 4)
    with pytest.raises(DataError, match=r"user numbers -1 to"):
        interaction_matrix(USERS - 1, ITEMS, M, N)
    with pytest.raises(DataError, match="do not form pairs"):
        interaction_matrix(USERS[:-1], ITEMS, M, N)
