r"""Hypergraph convolutions as products of the incidence matrix and its transpose.

A convolution passes from nodes to hyperedges and back. Multiplying by :math:`A^\top` and then by
:math:`A` avoids the node-by-node matrix :math:`A A^\top`, which has many times the entries
(35 times on Amazon Beauty) and takes O(M^2) work to build.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_hellm.graph.bipartite import inverse_power
from recbole_hellm.graph.sparse import SparseOperator


class UserHypergraph(nn.Module):
    r"""Users as nodes, the items they interacted with as hyperedges (U2U).

    .. math::

        S_U = D_U^{-1} (A A^\top - \mathrm{diag}(A A^\top)), \qquad
        S_U X = D_U^{-1} \left( A (A^\top X) - \deg \circ X \right)

    with :math:`D_U` the row sums of the bracket, so that rows of :math:`S_U` sum to 1. A user who
    shares no item with anyone receives zero.

    Parameters
    ----------
    incidence : scipy sparse matrix or array, shape [M, N]
        :math:`A`, users by items.
    dtype : torch.dtype, optional
        Type of the values; torch's default by default.

    References
    ----------
    HeLLM, section 3.2, equations 1 and 2, with identity hyperedge weights. The normalisation LN
    follows the authors' code, which also removes the diagonal.
    """

    negative_diagonal: Tensor

    def __init__(
        self, incidence: sp.spmatrix | sp.sparray, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        matrix = sp.csr_array(incidence).astype(np.float64)
        diagonal = matrix.multiply(matrix).sum(axis=1)
        degree = matrix @ matrix.sum(axis=0) - diagonal
        scale = inverse_power(degree, 1.0)
        self.gather = SparseOperator(matrix.T, dtype)
        # D_U^-1 is folded into the values of the second product.
        self.scatter = SparseOperator(sp.diags_array(scale) @ matrix, dtype)
        negative_diagonal = torch.from_numpy(-diagonal * scale)[:, None]
        negative_diagonal = negative_diagonal.to(dtype or torch.get_default_dtype())
        self.register_buffer("negative_diagonal", negative_diagonal, persistent=False)

    def forward(self, nodes: Tensor) -> Tensor:
        """One convolution :math:`S_U X`, shapes [M, d] to [M, d]."""
        return self.scatter(self.gather(nodes), plus=nodes * self.negative_diagonal)

    def propagate(self, nodes: Tensor, layers: int) -> Tensor:
        r""":math:`S_U^L X`: the last layer only, with no mean and no residual."""
        for _ in range(layers):
            nodes = self(nodes)
        return nodes


class ItemHypergraph(nn.Module):
    r"""Items as nodes, K-nearest neighbourhoods in every modality as hyperedges (I2I).

    .. math::

        S_I = D_I^{-1/2} H H^\top D_I^{-1/2}, \qquad
        S_I X = s \circ H (H^\top (s \circ X)), \quad s = (H (H^\top 1))^{-1/2}

    with the diagonal kept. An item in no hyperedge receives zero.

    Parameters
    ----------
    incidence : scipy sparse matrix or array, shape [N, E]
        :math:`H`, items by hyperedges, from :func:`recbole_hellm.graph.knn.knn_incidence`.
    dtype : torch.dtype, optional
        Type of the values; torch's default by default.

    References
    ----------
    HeLLM, section 3.3, equation 5, with identity hyperedge weights. The normalisation LN follows
    the authors' code.
    """

    def __init__(
        self, incidence: sp.spmatrix | sp.sparray, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        matrix = sp.csr_array(incidence).astype(np.float64)
        scale = inverse_power(matrix @ matrix.sum(axis=0), 0.5)
        self.incidence = SparseOperator(sp.diags_array(scale) @ matrix, dtype)

    def forward(self, nodes: Tensor) -> Tensor:
        """One convolution :math:`S_I X`, shapes [N, d] to [N, d]."""
        return self.incidence(self.incidence.transposed(nodes))

    def propagate(self, nodes: Tensor, layers: int) -> Tensor:
        r""":math:`S_I^L X`: the last layer only, with no mean and no residual."""
        for _ in range(layers):
            nodes = self(nodes)
        return nodes
