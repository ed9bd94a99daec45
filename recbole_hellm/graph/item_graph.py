"""Item-item graphs with K weighted neighbours per item; weights are fixed or learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_hellm.graph.edges import EdgeSet
from recbole_hellm.graph.faiss_search import Search
from recbole_hellm.graph.knn import knn_graph

_LEAST = 1e-12


class NeighbourGraph(nn.Module):
    r"""A directed graph with K edges from each item; the weights are arguments.

    Only the neighbours are stored, as a buffer in ``state_dict``: they may come from weights that
    training has changed since, and scores depend on them. The [E, d] rows at the ends of edges are
    never gathered.

    Parameters
    ----------
    neighbours : Tensor of int, shape [N, K]
        Different items in each row, from :func:`recbole_hellm.graph.knn.knn_graph`.

    Attributes
    ----------
    neighbours : Tensor of int64, shape [N, K]
        The same, ascending in each row. Edges and weights are in this order.

    References
    ----------
    Zhang et al., Mining Latent Structures for Multimedia Recommendation (LATTICE), MM 2021.
    """

    neighbours: Tensor
    edges: EdgeSet

    def __init__(self, neighbours: Tensor) -> None:
        super().__init__()
        self.register_buffer("neighbours", torch.empty(0))
        self.rewire(neighbours)
        self.register_load_state_dict_post_hook(rebuild_edges)

    def rewire(self, neighbours: Tensor) -> None:
        """Replace all edges.

        Parameters
        ----------
        neighbours : Tensor of int, shape [N, K]
        """
        self.neighbours = neighbours.to(torch.int64).sort(dim=1).values
        rebuild_edges(self)

    def similarities(self, nodes: Tensor) -> Tensor:
        r"""Cosine similarity along each edge; negative ones become zero.

        .. math:: S_{ij} = \left[ x_i^\top x_j / (\lVert x_i \rVert \lVert x_j \rVert) \right]_+

        Parameters
        ----------
        nodes : Tensor, shape [N, d]
            A row of zeros has similarity 0 to everything, itself included.

        Returns
        -------
        Tensor, shape [N, K]
            Differentiable.

        References
        ----------
        LATTICE, with the negative entries set to zero.
        """
        products = self.edges.dot(nodes, nodes).view_as(self.neighbours)
        # relu rather than clamp, whose gradient at exactly 0 would reach rows of zeros.
        return self._scaled(F.relu(products), 1 / nodes.norm(dim=1).clamp_min(_LEAST))

    def normalised(self, weights: Tensor) -> Tensor:
        r""":math:`D^{-1/2} W D^{-1/2}`, with :math:`D` the row sums of :math:`W`.

        Parameters
        ----------
        weights : Tensor, shape [N, K]
            :math:`W`, not negative. An item whose weights sum to 0 has no influence and gets 0.

        Returns
        -------
        Tensor, shape [N, K]
            Differentiable.

        References
        ----------
        LATTICE, its normalisation of item graphs.
        """
        degree = weights.sum(1)
        return self._scaled(weights, degree.clamp_min(_LEAST).rsqrt() * (degree > 0))

    def propagate(self, weights: Tensor, nodes: Tensor) -> Tensor:
        r""":math:`W X`, differentiable in both.

        Parameters
        ----------
        weights : Tensor, shape [N, K]
            :math:`W`.
        nodes : Tensor, shape [N, d]
            :math:`X`.

        Returns
        -------
        Tensor, shape [N, d]
        """
        return self.edges.to_left(weights.reshape(-1), nodes)

    def _scaled(self, weights: Tensor, scale: Tensor) -> Tensor:
        tails = scale.index_select(0, self.edges.right).view_as(weights)
        return weights * scale[:, None] * tails


def rebuild_edges(graph: NeighbourGraph, *_: Any) -> None:
    """Rebuild the edges from replaced or loaded neighbours."""
    n, k = graph.neighbours.shape
    columns = graph.neighbours.cpu().numpy().ravel()
    pattern = sp.csr_array((np.ones(n * k), columns, np.arange(0, n * k + 1, k)), shape=(n, n))
    graph.edges = EdgeSet(pattern).to(graph.neighbours.device)


def similarity_graph(
    features: np.ndarray | Tensor, k: int, chunk: int = 512, search: Search = "exact"
) -> sp.csr_array:
    r"""Fixed item graph: cosine similarities of the K nearest items, symmetrically normalised.

    .. math::

        \tilde S = D^{-1/2} \hat S D^{-1/2}, \qquad \hat S_{ij} = \begin{cases}
        [\cos(e_i, e_j)]_+ & j \in \text{top-}K(i) \\ 0 & \text{otherwise} \end{cases},
        \qquad D_{ii} = \sum_j \hat S_{ij}

    An item is among its own K nearest unless K or more others are identical to it.

    Parameters
    ----------
    features : ndarray or Tensor, shape [N, D]
    k : int
        K.
    chunk : int
        Rows compared at a time.
    search : str
        As for :func:`recbole_hellm.graph.knn.knn_graph`.

    Returns
    -------
    csr_array of float64, shape [N, N]
        K entries per row, fewer where similarities are not positive.

    Raises
    ------
    ConfigError
        If `k` is less than 1 or more than N.
    FeatureError
        If `features` is not a matrix of finite numbers.

    References
    ----------
    LATTICE: similarity, sparsification and normalisation of item graphs.
    """
    graph = NeighbourGraph(knn_graph(features, k, chunk, search).indices)
    with torch.no_grad():
        values = graph.normalised(graph.similarities(torch.as_tensor(features).to(torch.float64)))
    parts = values, graph.neighbours, graph.edges.left_offsets
    data, columns, offsets = (part.reshape(-1).cpu().numpy() for part in parts)
    matrix = sp.csr_array((data, columns, offsets), shape=(len(values), len(values)))
    matrix.eliminate_zeros()
    return matrix
