"""Scores of the stages' own tables, added to those of the item head.

None of this is the paper's (docs/method.md, Further item tokens and heads).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StageScores(nn.Module):
    r"""Adds products of the history's table rows with every item's row to the logits.

    .. math:: \mathrm{logits}_j = z_j + \sum_r \frac{1}{\sqrt{d_r}}
        \big\langle a_r t^r_{i_n} + \tfrac{b_r}{n} \sum_{k \le n} t^r_{i_k},\, t^r_j \big\rangle

    for a history :math:`i_1, \dots, i_n`, with z the head's own scores and learned a and b, which
    start at 0. As inner products, they are further columns of queries and item weights.

    Parameters
    ----------
    n_tables : int
        Number of tables r.
    """

    def __init__(self, n_tables: int) -> None:
        super().__init__()
        self.last = nn.Parameter(torch.zeros(n_tables))
        self.mean = nn.Parameter(torch.zeros(n_tables))

    def queries(self, tables: Sequence[nn.Embedding], item_ids: Tensor) -> Tensor:
        """Columns of the histories up to each place.

        Parameters
        ----------
        tables : sequence of Embedding
            [N+1, d_r] each.
        item_ids : Tensor
            [B, T] item ids, oldest first, right-padded with 0.

        Returns
        -------
        Tensor
            [B, T, sum of d_r].
        """
        seen = torch.arange(1, item_ids.shape[1] + 1, device=item_ids.device).unsqueeze(-1)
        parts = []
        for table, last, mean in zip(tables, self.last, self.mean, strict=True):
            rows = table(item_ids)
            mixed = last * rows + mean * (rows.cumsum(1) / seen)
            parts.append(mixed / table.embedding_dim**0.5)
        return torch.cat(parts, dim=-1)

    def weights(self, tables: Sequence[nn.Embedding]) -> Tensor:
        """Columns of the items, [N, sum of d_r]; row j belongs to item j + 1."""
        return torch.cat([table.weight[1:] for table in tables], dim=-1)
