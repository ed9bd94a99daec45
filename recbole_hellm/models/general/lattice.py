"""LATTICE: item-item structures mined from every modality (Zhang et al., MM 2021)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_hellm.config.settings import setting
from recbole_hellm.graph.item_graph import NeighbourGraph, similarity_graph
from recbole_hellm.graph.knn import knn_graph
from recbole_hellm.graph.sparse import SparseOperator
from recbole_hellm.models.general.base import (
    EmbeddingRecommender,
    GeneralSettings,
    LightGCNNetwork,
    NeighbourSettings,
    check_features,
    linear,
    modality_tables,
    register_features,
)
from recbole_hellm.models.losses import bpr_loss, l2_regularisation


class LATTICESettings(NeighbourSettings, GeneralSettings):
    """Settings of :class:`LATTICE`; defaults are the authors' unless a comment says otherwise."""

    n_layers_ui: int = setting(2, "Layers of LightGCN.", ge=0)
    n_layers_i2i: int = setting(1, "Layers L over the item graph.", ge=1)
    knn_k: int = setting(10, "Neighbours K of an item in each modality, itself included.", ge=1)
    lambda_coeff: float = setting(
        0.9,
        "Weight lambda of the raw features' graph, from 0 (only the learned graph) to 1.",
        ge=0,
        le=1,
    )
    reg_weight: float = setting(
        1e-4,  # searched on Beauty; 1e-5 in the authors' code
        "Weight of the L2 term.",
        ge=0,
    )
    train_features: bool = setting(
        False,  # searched on Beauty: no difference; True in the authors' code
        "Train the raw features of the learned graph; the graph of the raw features itself stays "
        "fixed.",
    )


class ModalityStructure(nn.Module):
    r"""The latent item graph of one modality.

    .. math::

        A = \lambda \tilde S + (1 - \lambda) \tilde A, \qquad \tilde e_i = W e_i + b

    with :math:`\tilde S` the similarity graph of the raw features :math:`e` and :math:`\tilde A`
    that of :math:`\tilde e`. The neighbours in :math:`\tilde A` are found at construction and in
    :meth:`find_neighbours`; the weights follow :math:`W` and :math:`b` at every step, with
    gradients.

    Parameters
    ----------
    features : Tensor, shape [N, D]
        Raw features.
    settings : LATTICESettings

    References
    ----------
    LATTICE: modality-aware latent structure learning.
    """

    features: Tensor

    def __init__(self, features: Tensor, settings: LATTICESettings) -> None:
        super().__init__()
        self.k, self.share = settings.knn_k, settings.lambda_coeff
        self.search = settings.knn_search
        if self.share > 0:
            graph = similarity_graph(features, self.k, search=self.search)
            self.initial = SparseOperator(graph)
        if self.share < 1:
            register_features(self, "features", features, settings.train_features)
            self.projection = linear(features.shape[1], settings.embedding_size)
            self.learned = NeighbourGraph(self._nearest())

    @torch.no_grad()
    def _nearest(self) -> Tensor:
        return knn_graph(self.projection(self.features), self.k, search=self.search).indices

    def find_neighbours(self) -> None:
        """Update the neighbours in the learned graph from the current projection."""
        if self.share < 1:
            self.learned.rewire(self._nearest())

    def weights(self) -> Tensor | None:
        r"""Weights of :math:`\tilde A`, shape [N, K]; None without it."""
        if self.share == 1:
            return None
        graph = self.learned
        return graph.normalised(graph.similarities(self.projection(self.features)))

    def propagate(self, weights: Tensor | None, nodes: Tensor) -> Tensor:
        """:math:`A X`, shapes [N, d] to [N, d], with the result of :meth:`weights`."""
        if weights is None:
            return self.initial(nodes)
        if self.share == 0:
            return self.learned.propagate(weights, nodes)
        # Scale N x K weights, and multiply within the product, rather than scale N x d rows.
        learned = self.learned.propagate(weights * (1 / self.share - 1), nodes)
        return self.initial(nodes, plus=learned, scale=self.share)


class LATTICENetwork(LightGCNNetwork):
    r"""LightGCN with additional item vectors from a graph mined from item features.

    .. math::

        h = \Big( \sum_m \alpha_m A^m \Big)^L x, \qquad
        \hat x_i = \tilde x_i + h_i / \lVert h_i \rVert, \qquad
        \hat y_{ui} = \langle \tilde x_u, \hat x_i \rangle

    with :math:`x` the items' table, :math:`\tilde x` LightGCN's vectors and :math:`\alpha` the
    softmax of learned scores of the modalities.

    Parameters
    ----------
    interactions : csr_array, shape [M, N]
        Binary training interactions.
    features : Mapping of str to Tensor, shapes [N, D_m]
        Raw item features by modality.
    settings : LATTICESettings

    Raises
    ------
    ConfigError
        If `knn_k` exceeds the number of items.
    FeatureError
        If there is no modality, or one has rows for other than N items.

    References
    ----------
    Zhang et al., Mining Latent Structures for Multimedia Recommendation, MM 2021: latent structure
    learning, graph convolutions, and combination with a collaborative filtering method (LightGCN).
    """

    def __init__(
        self, interactions: sp.csr_array, features: Mapping[str, Tensor], settings: LATTICESettings
    ) -> None:
        super().__init__(interactions, settings.embedding_size)
        check_features("LATTICE", features, interactions.shape[1])
        self.settings = settings
        structures = nn.ModuleList(ModalityStructure(x, settings) for x in features.values())
        self.structures = cast("Sequence[ModalityStructure]", structures)
        self.importance = nn.Parameter(torch.zeros(len(features)))

    def start_epoch(self) -> None:
        """Update the neighbours in the learned graphs."""
        for structure in self.structures:
            structure.find_neighbours()

    def propagate(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""LightGCN's users [M, d] and items [N, d], and the items' :math:`h` [N, d]."""
        user, item = self.light_gcn(self.settings.n_layers_ui)
        alpha, latent = self.importance.softmax(0), self.item_table
        weights = [structure.weights() for structure in self.structures]
        for _ in range(self.settings.n_layers_i2i):
            parts = zip(alpha, self.structures, weights, strict=True)
            latent = functools.reduce(
                torch.add, [a * structure.propagate(w, latent) for a, structure, w in parts]
            )
        return user, item, latent

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [M, d] and all items [N, d]."""
        user, item, latent = self.propagate()
        return user, item + F.normalize(latent, dim=1)

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        """BPR and the L2 term over the batch's final vectors.

        Returns
        -------
        dict of str to Tensor
            ``bpr``, a mean instead of the paper's sum, and ``reg``.
        """
        users, positives, negatives = rows
        all_users, all_items, latent = self.propagate()
        items = torch.cat([positives, negatives])
        user = all_users.index_select(0, users)
        item = all_items.index_select(0, items)
        item = item + F.normalize(latent.index_select(0, items), dim=1)
        positive, negative = item.chunk(2)
        return {
            "bpr": bpr_loss((user * positive).sum(1), (user * negative).sum(1)),
            "reg": self.settings.reg_weight * l2_regularisation((user, item), len(users)),
        }


class LATTICE(EmbeddingRecommender):
    """LATTICE over LightGCN as a RecBole general recommender.

    See :class:`EmbeddingRecommender` for the inputs.
    """

    settings_classes = (LATTICESettings,)
    data_parallel = True

    def build(self, interactions: sp.csr_array, dataset: Any) -> LATTICENetwork:
        """The network over the training graph and the features of all modalities."""
        return LATTICENetwork(interactions, modality_tables(dataset), self.settings)
