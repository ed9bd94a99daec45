"""The item head: scores of all items from the decoder's last hidden state.

Paper, section 3.5, Eq. 14; the other heads are settings of this package (docs/method.md, Item head,
and Further item tokens and heads).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.models.llm.stage_scores import StageScores

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
    n_stages : int
        Number of tables of which scores are added, see :class:`StageScores`; 0 for none.

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
        n_stages: int = 0,
    ) -> None:
        super().__init__()
        outputs = n_items if kind == "linear" else hidden_size
        self.tied, self.width = kind == "tied", hidden_size
        self.linear = nn.Linear(hidden_size, outputs, bias=False).requires_grad_(trainable)
        self.log_scale: nn.Parameter | None = None
        if cosine:
            # Not a scalar, which sharding could not split.
            self.log_scale = nn.Parameter(torch.full((1,), START), requires_grad=trainable)
        self.stages = StageScores(n_stages) if n_stages else None

    def beside(
        self,
        hidden: Tensor,
        tables: Sequence[nn.Embedding],
        item_ids: Tensor,
        places: Tensor | tuple[Tensor, Tensor],
    ) -> Tensor:
        """States as :meth:`read_out` takes them: with the stages' columns, if any, beside them.

        Parameters
        ----------
        hidden : Tensor
            [n, hidden_size] last hidden states.
        tables : sequence of Embedding
            [N+1, d_r] each, of the stages.
        item_ids : Tensor
            [B, T] histories, right-padded with 0.
        places : Tensor or tuple of Tensor
            Index of n places in [B, T], after which the states were read.
        """
        if self.stages is None:
            return hidden
        return torch.cat([hidden, self.stages.queries(tables, item_ids)[places]], dim=-1)

    def read_out(self, hidden: Tensor) -> Tensor:
        """Queries that are multiplied with the item weights, [n, hidden_size + stages' columns]."""
        if self.stages is not None:
            own, columns = hidden[..., : self.width], hidden[..., self.width :]
            return torch.cat([self._own_queries(own), columns], dim=-1)
        return self._own_queries(hidden)

    def _own_queries(self, hidden: Tensor) -> Tensor:
        queries: Tensor = self.linear(hidden) if self.tied else hidden
        if self.log_scale is None:
            return queries
        return self.log_scale.exp() * F.normalize(queries, dim=-1)

    def weights(
        self, tokens: Tensor | None, tables: Sequence[nn.Embedding] | None = None
    ) -> Tensor:
        """Item weights [N, hidden_size + stages' columns]; row j belongs to item j + 1.

        Parameters
        ----------
        tokens : Tensor or None
            [N+1, hidden_size], all item tokens, if the head is tied.
        tables : sequence of Embedding, optional
            [N+1, d_r] each, of the stages, if the head adds their scores.
        """
        own = self._own_weights(tokens)
        if self.stages is None:
            return own
        return torch.cat([own, self.stages.weights(tables or ())], dim=-1)

    def _own_weights(self, tokens: Tensor | None) -> Tensor:
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
        n_stages=len(settings.item_inputs) if settings.stage_scores else 0,
    )
