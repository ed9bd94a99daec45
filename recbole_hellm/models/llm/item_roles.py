"""The roles of an item token: how much each of its tables counts, by chance or by training.

The tables of ``item_inputs`` (graph, sequence, text, ...) are the roles. None of this is the
paper's (docs/method.md, Further item tokens and heads).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_hellm.errors import ConfigError, DataError


def drop_roles(rows: list[Tensor], rate: float) -> list[Tensor]:
    r"""Leave out whole roles at random: dropout of an item's row of a table, not of its numbers.

    .. math:: t^r_i \leftarrow \frac{m_{ri}}{1 - p} t^r_i, \qquad
        m_{ri} \sim \mathrm{Bernoulli}(1 - p)

    independently for each role r and row i, so that all roles of an item may be missing at once.

    Parameters
    ----------
    rows : list of Tensor
        [..., d_r] each: a role's vectors of the same items.
    rate : float
        p in [0, 1).

    Returns
    -------
    list of Tensor
        Of the same shapes.

    References
    ----------
    Srivastava et al., Dropout, 2014, section 4, with one draw for a vector.
    """
    return [row * F.dropout(row.new_ones(*row.shape[:-1], 1), rate) for row in rows]


class ItemGates(nn.Module):
    r"""Gates of an item's roles by how often the item was trained.

    .. math:: g^r_i = 2\,\sigma(a_r \ln(1 + n_i) + b_r)

    At the start a = b = 0 and every gate is 1, so that the tokens are those without gates.

    Parameters
    ----------
    counts : Tensor of int64 or None
        [N+1] training interactions n of each item, row 0 being padding.
    n_items : int
        N.
    n_roles : int
        Numbers of pairs (a, b).

    Raises
    ------
    ConfigError
        If the counts are not given.
    DataError
        If there are not N + 1 of them.
    """

    counts: Tensor

    def __init__(self, counts: Tensor | None, n_items: int, n_roles: int) -> None:
        super().__init__()
        if counts is None:
            raise ConfigError(
                "item_gate=True needs the items' numbers of training interactions; give them as "
                "item_counts."
            )
        if counts.shape != (n_items + 1,):
            raise DataError(
                f"item_counts has shape {tuple(counts.shape)}, but {n_items} items need "
                f"{n_items + 1} numbers, the first one for padding."
            )
        self.slopes = nn.Parameter(torch.zeros(n_roles))
        self.offsets = nn.Parameter(torch.zeros(n_roles))
        self.register_buffer("counts", counts.long())

    def forward(self, ids: Tensor | None = None) -> list[Tensor]:
        """Gates of each role in turn, [..., 1], of items [...]; of all N + 1 rows without ids."""
        counts = self.counts if ids is None else self.counts[ids]
        logs = counts.to(self.slopes.dtype).log1p().unsqueeze(-1)
        gates = 2 * torch.sigmoid(logs * self.slopes + self.offsets)
        return list(gates.split(1, dim=-1))
