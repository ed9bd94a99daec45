"""Visual Bayesian personalised ranking, for any item features (He and McAuley, AAAI 2016)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_hellm.config.settings import setting
from recbole_hellm.models import losses
from recbole_hellm.models.general.base import (
    EmbeddingNetwork,
    EmbeddingRecommender,
    GeneralSettings,
    modality_tables,
    xavier,
)


class VBPRSettings(GeneralSettings):
    """Settings of :class:`VBPR`; `embedding_size` is the width of gamma and of theta."""

    reg_weight: float = setting(
        1e-3,  # searched on Beauty
        "Weight lambda_Theta of the L2 term over a batch's gamma, theta and beta.",
        ge=0,
    )
    reg_projection: float = setting(0.0, "Weight lambda_E of the L2 term over E and beta'.", ge=0)


class VisualFactors(EmbeddingNetwork):
    r"""Matrix factorisation beside a factorisation of projected features.

    .. math::

        \hat x_{ui} = \beta_i + \gamma_u^\top \gamma_i + \theta_u^\top (E f_i) + \beta'^\top f_i

    with :math:`f_i` the concatenated features of all modalities, divided by the root of their
    number and not trained. The paper's global offset :math:`\alpha` and user bias :math:`\beta_u`
    are left out: they are equal for all items of a user and affect neither the ranking nor the
    loss.

    Parameters
    ----------
    n_users : int
        M.
    features : Mapping of str to Tensor, shapes [N, D_m]
        Item features by modality, at least one.
    settings : VBPRSettings

    References
    ----------
    He and McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI 2016,
    equation 4.
    """

    features: Tensor

    def __init__(
        self, n_users: int, features: Mapping[str, Tensor], settings: VBPRSettings
    ) -> None:
        super().__init__()
        self.settings = settings
        d = settings.embedding_size
        # Sorted, so that a checkpoint does not depend on the order of modalities.
        table = torch.cat([features[name] for name in sorted(features)], dim=1)
        # Rows have length about 1 at any width, so one learning rate suits all encoders.
        table = table / math.sqrt(table.shape[1])
        self.register_buffer("features", table, persistent=False)
        self.gamma_user = xavier(n_users, d)
        self.theta_user = xavier(n_users, d)
        self.gamma_item = xavier(len(table), d)
        self.item_bias = nn.Parameter(torch.zeros(len(table), 1))  # beta
        self.projection = xavier(d, table.shape[1])  # E
        self.feature_bias = nn.Parameter(torch.zeros(1, table.shape[1]))  # beta'

    def forward(self) -> tuple[Tensor, Tensor]:
        r"""Vectors whose inner products are the scores.

        Returns
        -------
        user : Tensor, shape [M, 2 d + 1]
            :math:`[\gamma_u, \theta_u, 1]`.
        item : Tensor, shape [N, 2 d + 1]
            :math:`[\gamma_i, E f_i, \beta_i + \beta'^\top f_i]`.
        """
        users = self._user_vectors(self.gamma_user, self.theta_user)
        return users, self._item_vectors(self.gamma_item, self.item_bias, self.features)

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        r"""BPR, and L2 terms over the batch's parameters.

        .. math::

            L = -\frac1B \sum_{(u,i,j)} \ln \sigma(\hat x_{ui} - \hat x_{uj})
              + \frac{\lambda_\Theta}{2B} \sum_{(u,i,j)} \big( \lVert \gamma_u \rVert^2
              + \lVert \theta_u \rVert^2 + \lVert \gamma_i \rVert^2 + \lVert \gamma_j \rVert^2
              + \beta_i^2 + \beta_j^2 \big)
              + \frac{\lambda_E}{2} \big( \lVert E \rVert_F^2 + \lVert \beta' \rVert^2 \big)

        The paper shrinks E and beta' once per triple, so their term has no 1 / B. Only the batch's
        features are projected.

        Returns
        -------
        dict of str to Tensor
            ``bpr``, ``reg`` and ``reg_projection``.
        """
        users, positives, negatives = rows
        s, items = self.settings, torch.cat([positives, negatives])
        gamma_user, theta_user = (
            table.index_select(0, users) for table in (self.gamma_user, self.theta_user)
        )
        gamma_item, bias, features = (
            table.index_select(0, items)
            for table in (self.gamma_item, self.item_bias, self.features)
        )
        user = self._user_vectors(gamma_user, theta_user)
        positive, negative = self._item_vectors(gamma_item, bias, features).chunk(2)
        factors = (gamma_user, theta_user, gamma_item, bias)
        projections = (self.projection, self.feature_bias)
        return {
            "bpr": losses.bpr_loss((user * positive).sum(1), (user * negative).sum(1)),
            "reg": s.reg_weight * losses.l2_regularisation(factors, len(users)),
            "reg_projection": s.reg_projection * losses.l2_regularisation(projections, 1),
        }

    def _user_vectors(self, gamma: Tensor, theta: Tensor) -> Tensor:
        return torch.cat([gamma, theta, gamma.new_ones(len(gamma), 1)], dim=1)

    def _item_vectors(self, gamma: Tensor, bias: Tensor, features: Tensor) -> Tensor:
        projected = features @ torch.cat([self.projection, self.feature_bias]).T
        return torch.cat([gamma, projected[:, :-1], projected[:, -1:] + bias], dim=1)


class VBPR(EmbeddingRecommender):
    """VBPR as a RecBole general recommender; see :class:`EmbeddingRecommender` for the inputs."""

    settings_classes = (VBPRSettings,)
    data_parallel = True

    def build(self, interactions: sp.csr_array, dataset: Any) -> VisualFactors:
        """The factors of all users and items; the graph is not used."""
        return VisualFactors(interactions.shape[0], modality_tables(dataset), self.settings)
