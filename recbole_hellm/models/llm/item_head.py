"""The item head: scores of all items from the decoder's last hidden state.

Paper, section 3.5, Eq. 14; the other heads are settings of this package (docs/method.md, Item head,
and Further item tokens and heads).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_hellm.models.llm.settings import LLMSettings

START = math.log(1 / 0.07)  # of a learned scale, as in CLIP


class ItemHead(nn.Module):
    r"""Scores all items: logits = read_out(h) · weights.

    Parameters
    ----------
    kind : {"linear", "tied"}
        ``linear``: a weight row per item, drawn from U(±1/sqrt(hidden_size)); ``tied``: the item
        tokens, scored by a linear read-out of the hidden state.
    hidden_size, n_items : int
        Shape.
    trainable : bool
        ``False`` keeps the head's weights as they were drawn (the released code's head).
    cosine : bool
        Score item i by :math:`e^s \cos(W h, x_i)` with a learned s. Only for ``tied``.

    References
    ----------
    Radford et al., Learning transferable visual models from natural language supervision, 2021,
    section 2.4, for the learned scale and its start.
    """

    def __init__(
        self,
        kind: Literal["linear", "tied"],
        hidden_size: int,
        n_items: int,
        trainable: bool,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        outputs = n_items if kind == "linear" else hidden_size
        self.tied = kind == "tied"
        self.linear = nn.Linear(hidden_size, outputs, bias=False).requires_grad_(trainable)
        self.log_scale: nn.Parameter | None = None
        if cosine:
            # Not a scalar, which sharding could not split.
            self.log_scale = nn.Parameter(torch.full((1,), START), requires_grad=trainable)

    def read_out(self, hidden: Tensor) -> Tensor:
        """Queries that are multiplied with the item weights, [n, hidden_size]."""
        queries: Tensor = self.linear(hidden) if self.tied else hidden
        if self.log_scale is None:
            return queries
        return self.log_scale.exp() * F.normalize(queries, dim=-1)

    def weights(self, tokens: Tensor | None) -> Tensor:
        """Item weights [N, hidden_size]; row j belongs to item j + 1.

        Parameters
        ----------
        tokens : Tensor or None
            [N+1, hidden_size], all item tokens, if the head is tied.
        """
        if tokens is None:
            return self.linear.weight
        return tokens[1:] if self.log_scale is None else F.normalize(tokens[1:], dim=-1)


def build_item_head(settings: LLMSettings, hidden_size: int, n_items: int) -> ItemHead:
    """The head that resolved settings ask for.

    Parameters
    ----------
    settings : LLMSettings
    hidden_size, n_items : int
        As of :class:`ItemHead`.
    """
    return ItemHead(
        settings.head or "linear",
        hidden_size,
        n_items,
        bool(settings.train_head),
        cosine=settings.head_scale == "cosine",
    )
