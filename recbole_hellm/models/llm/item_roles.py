"""The roles of an item token: how much each of its tables counts, by chance or by training.

The tables of ``item_inputs`` (graph, sequence, text, ...) are the roles. None of this is the
paper's (docs/method.md, Further item tokens and heads).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
