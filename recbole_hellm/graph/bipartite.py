"""The user-item graph and LightGCN's propagation over it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_hellm.errors import DataError
from recbole_hellm.graph.sparse import SparseOperator


def interaction_matrix(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int
) -> sp.csr_array:
    """Binary matrix :math:`A` of interactions; repeated pairs count once.

    Parameters
    ----------
    users, items : ndarray of int, shape [E]
        Row and column numbers from 0.
    n_users, n_items : int
        M and N.

    Returns
    -------
    csr_array of float64, shape [M, N]

    Raises
    ------
    DataError
        If the arrays differ in length or a number lies outside the matrix.
    """
    users, items = np.asarray(users), np.asarray(items)
    if users.shape != items.shape:
        raise DataError(
            f"{len(users)} users and {len(items)} items do not form pairs; pass one item per user."
        )
    for kind, ids, limit in (("user", users, n_users), ("item", items, n_items)):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
            raise DataError(
                f"Interactions hold {kind} numbers {ids.min()} to {ids.max()}; they must lie in "
                f"0..{limit - 1}."
            )
    matrix = sp.csr_array((np.ones(len(users)), (users, items)), shape=(n_users, n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def inverse_power(values: np.ndarray, power: float) -> np.ndarray:
    """``values ** -power``, and 0 where the value is 0 (an isolated node has no influence)."""
    result = np.zeros(len(values))
    np.power(values, -power, out=result, where=values > 0)
    return result


class BipartiteGraph(nn.Module):
    r"""The user-item graph, symmetrically normalised.

    The operator is :math:`D^{-1/2} \begin{pmatrix} 0 & A \\ A^\top & 0 \end{pmatrix} D^{-1/2}`;
    only its rectangle :math:`R = D_u^{-1/2} A D_i^{-1/2}` is stored. Users receive
    :math:`R x_i`, items :math:`R^\top x_u`. There are no self-loops.

    Parameters
    ----------
    users, items : ndarray of int, shape [E]
        Training interactions as row and column numbers from 0; duplicates count once.
    n_users, n_items : int
        M and N.
    dtype : torch.dtype, optional
        Type of the values; torch's default by default.

    References
    ----------
    He et al., LightGCN, SIGIR 2020, equations 3, 4 and 8; HeLLM, section 3.4.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        n_users: int,
        n_items: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        adjacency = interaction_matrix(users, items, n_users, n_items)
        left = sp.diags_array(inverse_power(adjacency.sum(axis=1), 0.5))
        right = sp.diags_array(inverse_power(adjacency.sum(axis=0), 0.5))
        self.to_users = SparseOperator(left @ adjacency @ right, dtype)

    def propagate(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        r"""One layer: :math:`(R x_i, R^\top x_u)`, shapes [M, d] and [N, d]."""
        return self.to_users(item), self.to_users.transposed(user)

    def light_gcn(self, user: Tensor, item: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        r"""LightGCN: :math:`e = \frac{1}{L+1} \sum_{l=0}^{L} x^{(l)}`.

        Parameters
        ----------
        user : Tensor, shape [M, d]
        item : Tensor, shape [N, d]
        layers : int
            L; 0 returns the inputs.

        Returns
        -------
        user, item : Tensor, shapes [M, d] and [N, d]
        """
        first_user, first_item = user, item
        for layer in range(layers):
            # Horner's scheme, x0 + R(x0 + R(x0 + ...)), needs no separate sum of layers.
            scale = 1.0 / (layers + 1) if layer == layers - 1 else 1.0
            user, item = (
                self.to_users(item, first_user, scale),
                self.to_users.transposed(user, first_item, scale),
            )
        return user, item
