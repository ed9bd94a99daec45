"""RecBole's SASRec, trained on whole sequences."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from recbole.model.sequential_recommender.sasrec import SASRec as RecBoleSASRec
from torch import Tensor

from recbole_hellm.models.losses import linear_cross_entropy
from recbole_hellm.settings import Settings


@dataclasses.dataclass(frozen=True)
class SASRecSettings(Settings):
    """Settings beside RecBole's own.

    Attributes
    ----------
    targets : {"every", "last"}
        ``every``: one pass over a user's training sequence, each next item a target; needs
        ``loss_type: CE``. ``last``: RecBole's training, one pass for each (history, next item).
    """

    targets: Literal["every", "last"] = "every"


class SASRec(RecBoleSASRec):
    r"""Self-attentive sequential recommendation (Kang and McAuley, 2018), RecBole's network.

    RecBole runs a history of t items for each of a user's targets t + 1. Causal attention makes the
    same hidden states in one pass over the sequence, so that

    .. math:: L = -\frac{1}{|B|} \sum_{u \in B} \sum_{t} \log
              \frac{\exp(h_{ut}^\top e_{i_{u,t+1}})}{\sum_j \exp(h_{ut}^\top e_j)}

    over a batch of users equals RecBole's loss over the rows of these users, at a fraction of the
    cost. A sequence longer than ``MAX_ITEM_LIST_LENGTH`` gives the targets of its last window.
    """

    settings_classes = (SASRecSettings,)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        every = SASRecSettings.from_config(config).targets == "every" and self.loss_type == "CE"
        self.batches = "sequences" if every else None

    def gather_indexes(self, output: Tensor, gather_index: Tensor) -> Tensor:
        """Hidden states at one position of each row [B] or at several [B, T]."""
        if gather_index.dim() == 1:
            return super().gather_indexes(output, gather_index)
        return output.gather(1, gather_index[..., None].expand(-1, -1, output.shape[-1]))

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Cross-entropy over all items, RecBole's padding class included."""
        if self.batches is None:
            return super().calculate_loss(interaction)
        sequences = interaction[self.ITEM_SEQ]
        inputs, targets = sequences[:, :-1], sequences[:, 1:]
        positions = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
        hidden = self.forward(inputs, positions.expand_as(inputs))
        real = targets > 0
        return linear_cross_entropy(hidden[real], self.item_embedding.weight, targets[real])
