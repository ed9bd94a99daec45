"""RecBole's LightGCN with faster propagation."""

from __future__ import annotations

from recbole.model.general_recommender import lightgcn
from torch import Tensor

from recbole_hellm.graph.bipartite import BipartiteGraph


class LightGCN(lightgcn.LightGCN):
    """RecBole's LightGCN with its loss, initial weights and scores; only the products differ.

    Answers lightgcn.py:125 and 146 of RecBole 1.2.1: a deprecated constructor, and products with a
    square COO matrix that autograd transposes and sorts again in every backward pass. Can go when
    RecBole propagates over a CSR matrix.

    References
    ----------
    He et al., LightGCN, SIGIR 2020, equations 3, 4 and 8.
    """

    norm_adj_matrix: BipartiteGraph

    def get_norm_adj_mat(self) -> BipartiteGraph:
        """The normalised training graph."""
        matrix = self.interaction_matrix
        return BipartiteGraph(matrix.row, matrix.col, self.n_users, self.n_items)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Propagated vectors of users and items, shapes [M + 1, d] and [N + 1, d] with padding."""
        return self.norm_adj_matrix.light_gcn(
            self.user_embedding.weight, self.item_embedding.weight, self.n_layers
        )
