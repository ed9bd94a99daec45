"""Graphs and hypergraphs over users and items as fixed sparse operators."""

from recbole_hellm.graph.bipartite import BipartiteGraph, interaction_matrix
from recbole_hellm.graph.hypergraph import ItemHypergraph, UserHypergraph
from recbole_hellm.graph.knn import NearestNeighbours, knn_graph, knn_incidence
from recbole_hellm.graph.sparse import SparseOperator

__all__ = [
    "BipartiteGraph",
    "ItemHypergraph",
    "NearestNeighbours",
    "SparseOperator",
    "UserHypergraph",
    "interaction_matrix",
    "knn_graph",
    "knn_incidence",
]
