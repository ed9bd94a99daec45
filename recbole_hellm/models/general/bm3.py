"""BM3: multi-modal recommendation bootstrapped without negatives (Zhou et al., WWW 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import scipy.sparse as sp
import torch
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_hellm.config.settings import setting
from recbole_hellm.models.general.base import (
    EmbeddingRecommender,
    GeneralSettings,
    LightGCNNetwork,
    check_features,
    linear,
    modality_tables,
    register_features,
)


class BM3Settings(GeneralSettings):
    """Settings of :class:`BM3`, searched on Beauty within the authors' grids."""

    n_layers: int = setting(2, "Layers L of LightGCN.", ge=0)  # from 1, 2
    dropout: float = setting(  # from 0.3, 0.5
        0.5, "Probability p with which an entry of a target is set to zero.", ge=0, lt=1
    )
    cl_weight: float = setting(  # 1 in the paper, 2 in its code
        2.0, "Weight of the alignment and of the masked terms.", ge=0
    )
    reg_weight: float = setting(  # from 0.01, 0.1 and next to 0 in this scale
        0.0, "Weight lambda of the L2 term.", ge=0
    )
    train_features: bool = setting(  # True in the authors' code
        False, "Train raw features with the rest."
    )


class Modality(nn.Module):
    """Features of all items and their trained linear map to width d.

    Parameters
    ----------
    features : Tensor, shape [N, D]
    settings : BM3Settings
    """

    features: Tensor

    def __init__(self, features: Tensor, settings: BM3Settings) -> None:
        super().__init__()
        register_features(self, "features", features, settings.train_features)
        self.linear = linear(features.shape[1], settings.embedding_size)

    def forward(self, rows: Tensor) -> Tensor:
        """Latent vectors of some items, shape [B, d]."""
        return self.linear(self.features.index_select(0, rows))


class BootstrapEncoder(LightGCNNetwork):
    r"""LightGCN vectors trained to predict each other's dropped-out, gradient-free views.

    .. math::

        h_u = \frac{1}{L+1} \sum_{l=0}^{L} x_u^{(l)}, \qquad
        h_i = \frac{1}{L+1} \sum_{l=0}^{L} x_i^{(l)} + x_i^{(0)}, \qquad
        \hat y_{ui} = \langle f_p(h_u), f_p(h_i) \rangle

    with one linear predictor :math:`f_p` for users, items and modalities. Features affect
    :math:`h_i` in training; ranking does not read them.

    Parameters
    ----------
    interactions : csr_array, shape [M, N]
        Binary training interactions.
    features : Mapping of str to Tensor, shapes [N, D_m]
        Item features by modality, at least one.
    settings : BM3Settings

    Raises
    ------
    FeatureError
        If there is no modality, or one has rows for other than N items.

    References
    ----------
    Zhou et al., "Bootstrap Latent Representations for Multi-modal Recommendation", WWW 2023.
    """

    def __init__(
        self, interactions: sp.csr_array, features: Mapping[str, Tensor], settings: BM3Settings
    ) -> None:
        d = settings.embedding_size
        super().__init__(interactions, d)
        check_features("BM3", features, interactions.shape[1])
        self.settings = settings
        # Sorted, so that a checkpoint does not depend on the order of modalities.
        self.modalities = nn.ModuleList(
            Modality(features[name], settings) for name in sorted(features)
        )
        self.predictor = linear(d, d)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Online vectors h of all users [M, d] and all items [N, d]."""
        user, item = self.light_gcn(self.settings.n_layers)
        return user, item + self.item_table

    def forward(self) -> tuple[Tensor, Tensor]:
        """Predictor outputs of all users [M, d] and all items [N, d], whose inner products rank."""
        user, item = self.propagate()
        return self.predictor(user), self.predictor(item)

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        r"""The weighted terms of the paper's loss, as means over the batch's interactions.

        .. math::

            L_{rec} &= C(f_p(h_u), \dot h_i) + C(f_p(h_i), \dot h_u) \\
            L_{align} &= \sum_m C(f_p(h_i^m), \dot h_i), \qquad
            L_{mask} = \sum_m C(f_p(h_i^m), \dot h_i^m) \\
            L &= L_{rec} + w (L_{align} + L_{mask})
               + \lambda (\lVert h_u \rVert^2 + \lVert h_i \rVert^2)

        where :math:`C` is the negative cosine, :math:`h_i^m` the projected features, and a dot
        means dropout and no gradient. Each interaction of a batch draws its own dropout; that of
        :math:`\dot h_i` is the same in all terms.

        Returns
        -------
        dict of str to Tensor
            ``rec``, ``align``, ``mask`` and ``reg``.
        """
        users, items = rows
        s, (all_users, all_items) = self.settings, self.propagate()
        user, item = all_users.index_select(0, users), all_items.index_select(0, items)
        user_target, item_target = self._target(user), self._target(item)
        rec = _distance(self.predictor(user), item_target)
        rec = rec + _distance(self.predictor(item), user_target)
        align, mask = [], []
        for modality in self.modalities:
            modal = modality(items)
            predicted = self.predictor(modal)
            align.append(_distance(predicted, item_target))
            mask.append(_distance(predicted, self._target(modal)))
        squares = user.square().sum() + item.square().sum()
        return {
            "rec": rec,
            "align": s.cl_weight * torch.stack(align).sum(),
            "mask": s.cl_weight * torch.stack(mask).sum(),
            "reg": s.reg_weight * squares / len(users),
        }

    def _target(self, online: Tensor) -> Tensor:
        return F.dropout(online.detach(), self.settings.dropout, self.training)


def _distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of the negative cosine."""
    return -F.cosine_similarity(predicted, target, dim=1).mean()


class BM3(EmbeddingRecommender):
    """BM3 as a RecBole general recommender; see :class:`EmbeddingRecommender` for the inputs."""

    input_type = InputType.POINTWISE
    settings_classes = (BM3Settings,)
    data_parallel = True

    def build(self, interactions: sp.csr_array, dataset: Any) -> BootstrapEncoder:
        """The encoder over the training graph, with the features of all modalities."""
        return BootstrapEncoder(interactions, modality_tables(dataset), self.settings)
