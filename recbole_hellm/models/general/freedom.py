"""FREEDOM: a frozen item graph and a pruned user-item graph (Zhou and Shen, MM 2023)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_hellm.config.settings import require, setting
from recbole_hellm.errors import ConfigError
from recbole_hellm.graph.bipartite import BipartiteGraph, inverse_power
from recbole_hellm.graph.faiss_search import Search
from recbole_hellm.graph.knn import knn_incidence
from recbole_hellm.graph.pruning import degree_weights, draw_without_replacement
from recbole_hellm.graph.sparse import SparseOperator
from recbole_hellm.models.general.base import (
    EmbeddingRecommender,
    GeneralSettings,
    LightGCNNetwork,
    NeighbourSettings,
    check_features,
    modality_tables,
    register_features,
    xavier,
)
from recbole_hellm.models.losses import bpr_loss

PAPER_WEIGHTS = {"image": 0.1}
"""The paper's alpha for images; text has the rest."""


class FREEDOMSettings(NeighbourSettings, GeneralSettings):
    """Settings of :class:`FREEDOM`; defaults are MMRec's unless a comment says otherwise."""

    n_layers_ui: int = setting(2, "Layers of LightGCN.", ge=0)
    n_layers_i2i: int = setting(1, "Layers of the item graph.", ge=0)
    knn_k: int = setting(10, "Neighbours K of an item in each modality, itself included.", ge=1)
    modality_weights: dict | None = setting(
        None,  # MMRec's: 0.1 for images
        "Shares alpha of the modalities in the item graph, such as {image: 0.3}; those not named "
        "share the rest. By default image has 0.1.",
    )
    pruning_ratio: float = setting(
        0.5,  # searched on Beauty; 0.8 or 0.9 in the paper
        "Fraction rho of the interactions that an epoch's graph lacks.",
        ge=0,
        lt=1,
    )
    reg_weight: float = setting(
        1e-3,  # searched on Beauty; from {0, 1e-5, 1e-4, 1e-3} in the paper
        "Weight lambda of the modalities' own losses.",
        ge=0,
    )
    train_features: bool = setting(
        False,  # searched on Beauty: no difference; True in the authors' code
        "Train raw features with the rest; the item graph stays frozen.",
    )

    def validate_relations(self) -> None:
        """Check the modalities' shares; raises :class:`ConfigError`."""
        for name, weight in (self.modality_weights or {}).items():
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            require(
                number and 0 <= weight < math.inf,
                f"modality_weights gives {name!r} the weight {weight!r}; use a number that is not "
                "negative, as in {image: 0.1}.",
            )


def mixing_weights(
    modalities: Collection[str], chosen: Mapping[str, float] | None
) -> dict[str, float]:
    """Shares of the modalities in the item graph, summing to 1.

    Parameters
    ----------
    modalities : collection of str
        Modalities of the item features.
    chosen : Mapping of str to float, optional
        Weights by modality. Modalities without a weight share the remainder to 1 equally; if all
        have one, the weights are divided by their sum. None means the paper's choice where it
        applies: 0.1 for ``image``.

    Raises
    ------
    ConfigError
        If `chosen` names an unknown modality, its weights sum to more than 1 while others have
        none, or all weights are 0.
    """
    if chosen is None:
        chosen = {name: weight for name, weight in PAPER_WEIGHTS.items() if name in modalities}
    for name in chosen:
        require(
            name in modalities,
            f"modality_weights names {name!r}, but the item features are "
            f"{', '.join(modalities)}; use their names.",
        )
    total = math.fsum(chosen.values())
    others = [name for name in modalities if name not in chosen]
    if others and total > 1:
        raise ConfigError(
            f"modality_weights={dict(chosen)} sum to {total:g} and leave nothing for "
            f"{', '.join(others)}; let them sum to at most 1, or name every modality."
        )
    if others:
        return {name: chosen.get(name, (1 - total) / len(others)) for name in modalities}
    require(total > 0, f"modality_weights={dict(chosen)} must give some modality more than 0.")
    return {name: chosen[name] / total for name in modalities}


def item_graph(
    features: Mapping[str, Tensor],
    weights: Mapping[str, float],
    k: int,
    search: Search = "exact",
) -> sp.csr_array:
    r"""The frozen graph :math:`S = \sum_m \alpha_m D_m^{-1/2} \hat S^m D_m^{-1/2}`.

    :math:`\hat S^m_{ij}` is 1 where j is among the K items most similar to i, itself included, and
    :math:`D_m` holds its row sums. An item without features has no neighbours in that modality.

    Parameters
    ----------
    features : Mapping of str to Tensor, shapes [N, D_m]
    weights : Mapping of str to float
        :math:`\alpha`.
    k : int
        K.
    search : str
        As for :func:`recbole_hellm.graph.knn.knn_graph`.

    Returns
    -------
    csr_array of float64, shape [N, N]

    References
    ----------
    Zhou and Shen, FREEDOM, MM 2023 (frozen item-item graph).
    """
    neighbours = knn_incidence(features, k, search=search)
    n = neighbours.shape[0]
    graph = sp.csr_array((n, n))
    for index, name in enumerate(features):
        adjacency = neighbours[:, index * n : (index + 1) * n]
        scale = sp.diags_array(inverse_power(adjacency.sum(axis=1), 0.5))
        graph = graph + weights[name] * (scale @ adjacency @ scale)
    return graph


class TwoGraphEncoder(LightGCNNetwork):
    r"""LightGCN vectors of users and items, plus the items' vectors from their frozen graph.

    .. math::

        \hat e_u = \bar e_u, \qquad \hat e_i = \bar e_i + (S^L E_I)_i, \qquad
        \hat y_{ui} = \langle \hat e_u, \hat e_i \rangle

    with :math:`\bar e` the mean over LightGCN's layers. Training uses the graph of the last call of
    :meth:`start_epoch`, normalised by its own degrees (before the first call, the full graph).
    Evaluation uses the full graph.

    Parameters
    ----------
    interactions : csr_array, shape [M, N]
        Binary training interactions.
    features : Mapping of str to Tensor, shapes [N, D_m]
        Item features by modality.
    settings : FREEDOMSettings

    Raises
    ------
    ConfigError
        If a setting does not fit the features.
    FeatureError
        If there is no modality, one has rows for other than N items, or features cannot be
        compared.

    References
    ----------
    Zhou and Shen, A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
    Recommendation, MM 2023.
    """

    def __init__(
        self,
        interactions: sp.csr_array,
        features: Mapping[str, Tensor],
        settings: FREEDOMSettings,
    ) -> None:
        d = settings.embedding_size
        super().__init__(interactions, d)
        check_features("FREEDOM", features, interactions.shape[1])
        self.settings, self.modalities = settings, tuple(features)
        weights = mixing_weights(self.modalities, settings.modality_weights)
        neighbours = item_graph(features, weights, settings.knn_k, settings.knn_search)
        self.item_graph = SparseOperator(neighbours)
        self.users, self.items = interactions.nonzero()
        self.pruned = self.graph
        # Not a buffer: drawing on the CPU makes an epoch's graph independent of the device.
        self.edge_weights = degree_weights(self.users, self.items)
        for name, table in features.items():
            register_features(self, f"{name}_features", table, settings.train_features)
            self.register_parameter(f"{name}_projection", xavier(table.shape[1], d))

    def start_epoch(self) -> None:
        r"""Draw the graph for training: all but :math:`\lfloor \rho E \rfloor` interactions.

        The draw depends on torch's generator alone, so a resumed run repeats it.
        """
        edges = len(self.edge_weights)
        pruned = math.floor(self.settings.pruning_ratio * edges)
        if pruned:
            drawn = draw_without_replacement(self.edge_weights, edges - pruned).numpy()
            sizes, table = (len(self.user_table), len(self.item_table)), self.item_table
            graph = BipartiteGraph(self.users[drawn], self.items[drawn], *sizes, table.dtype)
            self.pruned = graph.to(table.device)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [M, d] and all items [N, d]."""
        s, graph = self.settings, self.pruned if self.training else self.graph
        user, item = graph.light_gcn(self.user_table, self.item_table, s.n_layers_ui)
        semantic = self.item_table
        for _ in range(s.n_layers_i2i):
            semantic = self.item_graph(semantic)
        return user, item + semantic

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        r"""The terms of the objective, as means over the batch instead of sums.

        .. math::

            -\ln \sigma(\hat e_u^\top \hat e_i - \hat e_u^\top \hat e_j) - \lambda \sum_m
            \ln \sigma(\hat e_u^\top W_m^\top f_i^m - \hat e_u^\top W_m^\top f_j^m)

        Returns
        -------
        dict of str to Tensor
            ``bpr``, and ``bpr_<modality>`` for each modality.

        References
        ----------
        Zhou and Shen, FREEDOM, MM 2023 (objective).
        """
        users, positives, negatives = rows
        both = torch.cat([positives, negatives])
        all_users, all_items = self()
        user = all_users.index_select(0, users)
        items = {"bpr": all_items.index_select(0, both)}
        for name in self.modalities:
            # The paper's projection has a bias, which cancels in the difference of two items.
            features = getattr(self, f"{name}_features").index_select(0, both)
            items[f"bpr_{name}"] = features @ getattr(self, f"{name}_projection")
        terms = {}
        for name, vectors in items.items():
            positive, negative = vectors.chunk(2)
            loss = bpr_loss((user * positive).sum(1), (user * negative).sum(1))
            terms[name] = loss if name == "bpr" else self.settings.reg_weight * loss
        return terms


class FREEDOM(EmbeddingRecommender):
    """FREEDOM as a RecBole general recommender; for inputs see :class:`EmbeddingRecommender`."""

    settings_classes = (FREEDOMSettings,)
    data_parallel = True

    def build(self, interactions: sp.csr_array, dataset: Any) -> TwoGraphEncoder:
        """The encoder over the training graph and all modalities of the item features."""
        return TwoGraphEncoder(interactions, modality_tables(dataset), self.settings)
