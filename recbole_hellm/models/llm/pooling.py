"""Second-order pooling of a user's graph embeddings (paper, Eqs. 8 and 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SecondOrderPooling(nn.Module):
    r"""Bilinear second-order pooling, paper Eqs. 8 and 9.

    .. math:: H_{Graph} = \mathrm{vec}(W^\top \bar H^\top \bar H W) \in \mathbb{R}^{d'^2}

    Parameters
    ----------
    dim : int
        d, width of the graph embeddings.
    bilinear_size : int, optional
        d'; ``None`` omits W, as the released code does.
    pad_bug : bool
        In training, let padded slots count as the item `pad` (released code). A sample's vector
        then depends on the batch's padding.
    """

    def __init__(self, dim: int, bilinear_size: int | None, pad_bug: bool = False) -> None:
        super().__init__()
        self.bilinear = None if bilinear_size is None else nn.Linear(dim, bilinear_size, bias=False)
        self.pad_bug = pad_bug
        self.size = (bilinear_size or dim) ** 2

    def forward(self, embeddings: Tensor, mask: Tensor, pad: Tensor | None = None) -> Tensor:
        """Pool one set of items per row.

        Parameters
        ----------
        embeddings : Tensor
            [B, T, d], graph embeddings of the items.
        mask : Tensor
            [B, T], True at real items.
        pad : Tensor, optional
            [d], value of padded slots under `pad_bug`.

        Returns
        -------
        Tensor
            [B, d'^2].
        """
        projected = self._project(embeddings)
        if self.pad_bug and self.training and pad is not None:
            projected = torch.where(mask.unsqueeze(-1), projected, self._project(pad))
        else:
            projected = projected * mask.unsqueeze(-1)
        return (projected.transpose(1, 2) @ projected).flatten(1)

    def running(self, embeddings: Tensor, visible: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        r"""Pool the visible items of every position, and map the result linearly.

        With :math:`G_t = \sum_{s\,visible} W^\top g_s g_s^\top W`, computes
        :math:`A\,\mathrm{vec}(G_t)` without forming :math:`G_t`: the map is applied to the upper
        triangle of each item's outer product, and the results are summed.

        Parameters
        ----------
        embeddings : Tensor
            [B, T, d].
        visible : Tensor
            [B, T, T], True at (t, s) where position t sees item s. s <= t gives the running sum
            over a sequence; blocks allow several sequences per row.
        weight : Tensor
            [m, d'^2], the map A.

        Returns
        -------
        mapped : Tensor
            [B, T, m].
        square_norm : Tensor
            [B, T], the squared norm of vec(G_t).
        """
        projected = self._project(embeddings)
        size = projected.shape[-1]
        rows = projected.flatten(0, 1).T.contiguous()
        products = torch.cat([row * rows[i:] for i, row in enumerate(rows.unbind())])
        i, j = torch.triu_indices(size, size, device=weight.device)
        # An entry off the diagonal also represents its mirror image.
        both = weight.index_select(1, i * size + j) + weight.index_select(1, j * size + i)
        folded = torch.where(i == j, 0.5, 1.0).to(weight.dtype) * both
        # A product with 0/1 avoids the cancellation of differences of running sums.
        sees = visible.to(projected.dtype)
        mapped = sees @ (folded @ products).T.unflatten(0, visible.shape[:2])
        squares = (projected @ projected.mT).square()
        return mapped, ((sees @ squares) * sees).sum(-1)

    def _project(self, embeddings: Tensor) -> Tensor:
        return embeddings if self.bilinear is None else self.bilinear(embeddings)
