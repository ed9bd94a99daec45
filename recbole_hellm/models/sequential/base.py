"""Base class of this package's sequential baselines: inputs, loss and scores."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_hellm.config.settings import Settings, require, setting
from recbole_hellm.models.llm.prompt import align_right

ALL, LAST = slice(None), slice(-1, None)  # places of a history


class SequentialSettings(Settings):
    """Settings of every sequential baseline, by the names of RecBole's SASRec."""

    hidden_size: int = setting(64, "Width d of items and states.", ge=1)
    inner_size: int = setting(256, "Width of the feed-forward layers.", ge=1)
    n_layers: int = setting(2, "Layers.", ge=1)
    n_heads: int = setting(1, "Heads; hidden_size must be a multiple of them.", ge=1)
    hidden_dropout_prob: float = setting(0.5, "Dropout of embeddings and states.", ge=0, lt=1)
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"] = setting(
        "gelu", "Activation of the feed-forward layers."
    )
    layer_norm_eps: float = setting(1e-12, "Epsilon of the layer norms.", gt=0)
    initializer_range: float = setting(
        0.02, "Standard deviation of embeddings and matrices at the start.", gt=0
    )

    def validate_relations(self) -> None:
        """Check the relations between fields; raises :class:`ConfigError`."""
        require(
            self.hidden_size % self.n_heads == 0,
            f"hidden_size={self.hidden_size} must be a multiple of n_heads={self.n_heads}.",
        )


class NextItemRecommender(SequentialRecommender):
    r"""A model whose state at the last item scores all items.

    .. math::

        h = \mathrm{encode}(\mathrm{LN}(e_{i_1} + p_1, \dots, e_{i_L} + p_L))_L, \qquad
        \hat y_i = h^\top e_i

    Histories are padded on the left to ``MAX_ITEM_LIST_LENGTH`` places L, so the last item always
    stands at place L, where filters over all places expect it. Padding has an embedding, too, which
    is drawn and not trained, as in the authors' codes. An empty history is padding at all places;
    attention, which is masked evenly there, sees all of them (``first_item_target``).

    Subclasses set :attr:`settings_classes` to their settings and implement :meth:`encoder`.

    Parameters
    ----------
    config : HellmConfig
    dataset : Dataset
        The training split.
    """

    input_type = InputType.POINTWISE
    batches = "histories"
    reads_empty = True
    settings_classes: tuple[type[SequentialSettings], ...] = (SequentialSettings,)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.settings = self.settings_classes[0].from_config(config)
        s = self.settings
        self.item_embedding = nn.Embedding(self.n_items, s.hidden_size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, s.hidden_size)
        self.norm = nn.LayerNorm(s.hidden_size, s.layer_norm_eps)
        self.dropout = nn.Dropout(s.hidden_dropout_prob)
        self.layers = nn.ModuleList(self.layer() for _ in range(s.n_layers))
        self.apply(self._initialise)

    def layer(self) -> nn.Module:
        """One layer.

        Its forward maps states [B, L, d], an additive mask [B, 1, L, L] and a slice of places to
        the states of these places.
        """
        raise NotImplementedError

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """States after the last item.

        Parameters
        ----------
        item_seq : Tensor of int64, shape [B, T]
            Histories, padded with 0 on the right.
        item_seq_len : Tensor of int64, shape [B]

        Returns
        -------
        Tensor, shape [B, d]
        """
        items = align_right(item_seq, item_seq_len)
        items = F.pad(items, (self.max_seq_length - items.shape[1], 0))
        states = self.dropout(
            self.norm(self.item_embedding(items) + self.position_embedding.weight)
        )
        mask = self.get_attention_mask(items)
        for layer in self.layers:
            # Only the last place scores items, so the last layer need not compute the others.
            states = layer(states, mask, LAST if layer is self.layers[-1] else ALL)
        return states[:, -1]

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Cross-entropy of the next item over all items."""
        return F.cross_entropy(self._scores(interaction), interaction[self.POS_ITEM_ID])

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, shape [B, N + 1]; column 0 is padding."""
        return self._scores(interaction)

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Scores of given (history, item) pairs, shape [B]."""
        return self._scores(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    def _scores(self, interaction: Any) -> Tensor:
        states = self(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return states @ self.item_embedding.weight.T

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.settings.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
