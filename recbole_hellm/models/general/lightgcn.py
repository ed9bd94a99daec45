"""RecBole's LightGCN with faster propagation, for several processes, too."""

from __future__ import annotations

from typing import Any

from recbole.model.general_recommender import lightgcn
from torch import Tensor

from recbole_hellm.graph.bipartite import BipartiteGraph
from recbole_hellm.models.portions import Portion


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
    data_parallel = True

    def get_norm_adj_mat(self) -> BipartiteGraph:
        """The normalised training graph."""
        matrix = self.interaction_matrix
        return BipartiteGraph(matrix.row, matrix.col, self.n_users, self.n_items)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Propagated vectors of users and items, shapes [M + 1, d] and [N + 1, d] with padding."""
        return self.norm_adj_matrix.light_gcn(
            self.user_embedding.weight, self.item_embedding.weight, self.n_layers
        )

    def portion_loss(self, interaction: Any, portion: Portion) -> Tensor:
        """One portion of the loss: BPR of some rows, and as much of the regularisation.

        RecBole's regularisation is of norms over the whole batch, unless ``require_pow`` is set.
        """
        self.restore_user_e = self.restore_item_e = None
        rows = [interaction[name] for name in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID)]
        tables = self.user_embedding, self.item_embedding, self.item_embedding
        users, items = self.forward()
        user, positive, negative = (
            vectors[portion.of(row)]
            for vectors, row in zip((users, items, items), rows, strict=True)
        )
        ranking: Tensor = self.mf_loss((user * positive).sum(1), (user * negative).sum(1))
        norms: Tensor = self.reg_loss(
            *(table(row) for table, row in zip(tables, rows, strict=True)),
            require_pow=self.require_pow,
        )
        return portion.weighted(ranking, len(rows[0])) + self.reg_weight * norms / portion.size
