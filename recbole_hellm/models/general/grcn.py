"""GRCN: graph convolution over interactions that item content re-weights (Wei et al., MM 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from recbole_hellm.config.settings import setting
from recbole_hellm.graph.edges import EdgeSet
from recbole_hellm.models import losses
from recbole_hellm.models.general.base import (
    EmbeddingNetwork,
    EmbeddingRecommender,
    GeneralSettings,
    check_features,
    modality_tables,
    xavier,
)


class GRCNSettings(GeneralSettings):
    """Settings of :class:`GRCN`; `embedding_size` is the width of ids and of each modality."""

    n_layers: int = setting(2, "Layers L of the graph convolution over ids.", ge=0)
    n_routings: int = setting(
        1,  # 3 in the authors' code, slower and no better on the sample
        "Rounds T of neighbour routing; 0 leaves prototypes at the users' own preferences.",
        ge=0,
    )
    normalise_ids: bool = setting(
        False,  # searched on Beauty; True in the authors' code
        "Divide the tables' rows by their norms before propagation, so that ids and content weigh "
        "alike and the L2 term cannot shrink ids.",
    )
    reg_weight: float = setting(
        # Searched on Beauty. The authors' grid, 1e-5 to 0.1, has another scale: they take means of
        # squares, here it is half their sums over the batch.
        0.1,
        "Weight lambda of the L2 term.",
        ge=0,
    )


class _Unit(torch.autograd.Function):
    """Rows divided by their norms, with a third of the memory passes of ``F.normalize``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        inverse = torch.where(norm > 0, norm.reciprocal(), 0.0)
        unit = rows * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        along = torch.bmm(gradients[0][:, None], unit[:, :, None])[:, 0]
        return torch.addcmul(gradients[0], unit, along, value=-1).mul_(inverse)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows [n, d] divided by their norms; a row of zeros stays zero and has no gradient."""
    return _Unit.apply(rows)


class Refined(NamedTuple):
    """Node vectors and edge weights of one modality.

    Attributes
    ----------
    user, item : Tensor, shapes [M, d] and [N, d]
        Refined content features.
    to_users, to_items : Tensor, shape [E]
        Affinities times confidences, for messages to users and to items.
    """

    user: Tensor
    item: Tensor
    to_users: Tensor
    to_items: Tensor


class PrototypicalNetwork(nn.Module):
    r"""The graph refining layer in one modality, for unit vectors :math:`f_i` and :math:`p_u`.

    Prototypes start at the users' preferences and are routed over their items for T rounds; then
    each edge is scored in both directions:

    .. math::

        f_i = \mathrm{LeakyReLU}(W x_i + b), \qquad
        p_u \leftarrow p_u + \sum_{i \in N_u} \alpha_{ui} f_i, \qquad
        \alpha_{ui} = \frac{\exp p_u^\top f_i}{\sum_{j \in N_u} \exp p_u^\top f_j}, \qquad
        \beta_{iu} = \frac{\exp p_u^\top f_i}{\sum_{v \in N_i} \exp p_v^\top f_i}

    each followed by a division by its norm for f and p. Refined features are
    :math:`p_u + \sum_i \alpha_{ui} f_i` and :math:`f_i + \sum_u \beta_{iu} p_u`.

    Parameters
    ----------
    n_users : int
        M.
    features : Tensor, shape [N, D]
        :math:`x`.
    settings : GRCNSettings

    References
    ----------
    GRCN, graph refining layer: prototypical network and pruning operations. The authors' code
    routes against its edges' direction, so that prototypes stay at the preferences.
    """

    features: Tensor

    def __init__(self, n_users: int, features: Tensor, settings: GRCNSettings) -> None:
        super().__init__()
        self.n_routings = settings.n_routings
        self.register_buffer("features", features, persistent=False)
        self.weight = xavier(settings.embedding_size, features.shape[1])
        self.bias = nn.Parameter(torch.zeros(settings.embedding_size))
        self.preference = xavier(n_users, settings.embedding_size)
        # Start with full confidence: with random signs, ReLU would cut the messages of nodes with
        # negative confidence, without a gradient to restore them.
        self.user_confidence = nn.Parameter(torch.ones(n_users))
        self.item_confidence = nn.Parameter(torch.ones(len(features)))

    def forward(self, edges: EdgeSet) -> Refined:
        """Refined features and weighted affinities over the training graph."""
        item = unit_rows(F.leaky_relu(F.linear(self.features, self.weight, self.bias)))
        user = unit_rows(self.preference)
        for _ in range(self.n_routings):
            share = edges.softmax_left(edges.dot(user, item))
            user = unit_rows(user + edges.to_left(share, item))
        affinity = edges.dot(user, item)
        to_users, to_items = edges.softmax_left(affinity), edges.softmax_right(affinity)
        return Refined(
            user + edges.to_left(to_users, item),
            item + edges.to_right(to_items, user),
            to_users * self.item_confidence.index_select(0, edges.right),
            to_items * self.user_confidence.index_select(0, edges.left),
        )


class GraphRefinedNetwork(EmbeddingNetwork):
    r"""Graph convolution of ids over edges that the modalities weight, beside refined content.

    .. math::

        w_{ui} = \max\!\big(0, \max_m c^m_i \alpha^m_{ui}\big), \qquad
        w_{iu} = \max\!\big(0, \max_m c^m_u \beta^m_{iu}\big), \qquad
        e_u^{(l+1)} = \sum_{i \in N_u} w_{ui} e_i^{(l)}, \qquad
        e_i^{(l+1)} = \sum_{u \in N_i} w_{iu} e_u^{(l)}

    A node's vector is :math:`\sum_{l=0}^{L} e^{(l)}` followed by its refined features of every
    modality; scores are inner products. :math:`e^{(0)}` are the tables' rows, of length 1 with
    `normalise_ids`. c is a modality's confidence in the node that sends the message. An edge
    that no modality trusts is cut; other edges are damped.

    Parameters
    ----------
    interactions : csr_array, shape [M, N]
        Training interactions.
    features : Mapping of str to Tensor, shapes [N, D_m]
        Item features by modality; they stay fixed.
    settings : GRCNSettings

    Raises
    ------
    FeatureError
        If there is no modality, or one has rows for other than N items.

    References
    ----------
    Wei et al., Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit
    Feedback, MM 2020: pruning operations, graph convolutional layer and prediction layer.
    """

    def __init__(
        self, interactions: sp.csr_array, features: Mapping[str, Tensor], settings: GRCNSettings
    ) -> None:
        super().__init__()
        (n_users, n_items), d = interactions.shape, settings.embedding_size
        check_features("GRCN", features, n_items)
        self.settings = settings
        self.edges = EdgeSet(interactions)
        self.modalities = nn.ModuleDict(
            {
                name: PrototypicalNetwork(n_users, table, settings)
                for name, table in features.items()
            }
        )
        self.user_table = xavier(n_users, d)
        self.item_table = xavier(n_items, d)

    def networks(self) -> list[PrototypicalNetwork]:
        """The modalities' networks."""
        return cast("list[PrototypicalNetwork]", list(self.modalities.values()))

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Vectors of users [M, d] and items [N, d]: of ids, then of each modality."""
        refined = [network(self.edges) for network in self.networks()]
        to_users = torch.stack([one.to_users for one in refined]).amax(0).relu()
        to_items = torch.stack([one.to_items for one in refined]).amax(0).relu()
        tables: tuple[Tensor, Tensor] = self.user_table, self.item_table
        if self.settings.normalise_ids:
            tables = unit_rows(tables[0]), unit_rows(tables[1])
        user, item = tables
        for _ in range(self.settings.n_layers):
            # Horner's scheme, x0 + W(x0 + W(x0 + ...)), needs no separate sum of layers.
            user, item = (
                tables[0] + self.edges.to_left(to_users, item),
                tables[1] + self.edges.to_right(to_items, user),
            )
        return [(user, item), *((one.user, one.item) for one in refined)]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [M, (1 + modalities) d] and all items [N, (1 + modalities) d]."""
        users, items = zip(*self.parts(), strict=True)
        return torch.cat(users, dim=1), torch.cat(items, dim=1)

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        r"""BPR, and an L2 term over the batch's ids and preferences.

        .. math::

            L = -\frac1B \sum_{(u,i,j)} \ln \sigma(\hat y_{ui} - \hat y_{uj})
              + \frac{\lambda}{2B} \sum_{(u,i,j)} \Big( \lVert e_u \rVert^2 + \lVert e_i \rVert^2
              + \lVert e_j \rVert^2 + \sum_m \lVert p^m_u \rVert^2 \Big)

        with e and p from the tables, before propagation and normalisation. Scores depend only on a
        preference's direction, so its term merely keeps it short.

        Returns
        -------
        dict of str to Tensor
            ``bpr`` and ``reg``.
        """
        users, positives, negatives = rows
        both = torch.cat([positives, negatives])
        scores = []
        for user, item in self.parts():
            positive, negative = item.index_select(0, both).chunk(2)
            anchor = user.index_select(0, users)
            scores.append(torch.stack([(anchor * positive).sum(1), (anchor * negative).sum(1)]))
        user_tables = [self.user_table, *(network.preference for network in self.networks())]
        gathered = [table.index_select(0, users) for table in user_tables]
        gathered.append(self.item_table.index_select(0, both))
        return {
            "bpr": losses.bpr_loss(*torch.stack(scores).sum(0)),
            "reg": self.settings.reg_weight * losses.l2_regularisation(gathered, len(users)),
        }


class GRCN(EmbeddingRecommender):
    """GRCN as a RecBole general recommender; see :class:`EmbeddingRecommender` for the inputs."""

    settings_classes = (GRCNSettings,)
    data_parallel = True

    def build(self, interactions: sp.csr_array, dataset: Any) -> GraphRefinedNetwork:
        """The network over the training graph and all modalities of the item features."""
        return GraphRefinedNetwork(interactions, modality_tables(dataset), self.settings)
