"""HeLLM's first stage: hypergraph-enhanced collaborative filtering (HeLLM, sections 3.2-3.4)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_hellm.config.settings import setting
from recbole_hellm.graph.hypergraph import ItemHypergraph, UserHypergraph
from recbole_hellm.graph.knn import knn_incidence
from recbole_hellm.models import losses
from recbole_hellm.models.general.base import (
    NeighbourSettings,
    PortionNetwork,
    PortionRecommender,
    xavier,
)
from recbole_hellm.models.portions import Portion


class HeLLMPreSettings(NeighbourSettings):
    """Settings of :class:`HeLLMPre`.

    Defaults are the paper's (section 4.1.4) or those of the authors' published training log on
    Beauty; ``properties/dataset`` has other values for Toys and Sports. Those of the contrast are
    this package's.
    """

    embedding_size: int = setting(64, "Width d of the embeddings.", ge=1)
    n_layers_ui: int = setting(2, "Layers of LightGCN.", ge=0)
    n_layers_u2u: int = setting(2, "Layers of the users' hypergraph.", ge=1)
    n_layers_i2i: int = setting(1, "Layers of the items' hypergraph.", ge=1)
    alpha_u2u: float = setting(0.9, "Weight alpha of the users' contrast (equation 12).", ge=0)
    beta_i2i: float = setting(0.1, "Weight beta of the items' contrast (equation 12).", ge=0)
    knn_k: int = setting(
        10, "Neighbours K of an item in each modality, itself included (equation 4).", ge=1
    )
    tau: float = setting(0.5, "Temperature of the contrast.", ge=losses.MIN_TEMPERATURE)
    reg_weight: float = setting(1e-4, "Weight lambda of the L2 term (equation 12).", ge=0)
    use_u2u: bool = setting(
        True, "Use the users' hypergraph: its propagation, fusion and contrast (Table 3)."
    )
    use_i2i: bool = setting(
        True, "Use the items' hypergraph: its propagation, fusion and contrast (Table 3)."
    )
    use_contrast: bool = setting(True, "Use the contrast of both hypergraphs (Table 3).")
    contrast: Literal["all", "batch"] = setting(
        "batch",
        "Anchors of the contrast: all nodes, as in the paper, or contrast_anchors users and as "
        "many items drawn uniformly at each step.",
    )
    contrast_anchors: int = setting(
        1024, "Anchors on each side for contrast=batch; all nodes of a smaller side.", ge=1
    )
    contrast_denominator: Literal["all", "batch"] = setting(
        "batch",
        "Nodes in the denominators for contrast=batch: all, which estimates contrast=all without "
        "bias, or the anchors only, which is another, cheaper loss.",
    )
    variant: Literal["paper", "released"] = setting(
        "paper",
        "paper keeps the anchor's similarity with itself in the denominators (equation 7); "
        "released leaves it out, as the authors' code does.",
    )


class Nodes(NamedTuple):
    """Users or items after propagation.

    Attributes
    ----------
    light : Tensor, shape [n, d]
        LightGCN's vectors e.
    hyper : Tensor, shape [n, d], or None
        The hypergraph's vectors h; None without it.
    """

    light: Tensor
    hyper: Tensor | None

    def rows(self, index: Tensor) -> Nodes:
        """Some of the nodes."""
        hyper = None if self.hyper is None else self.hyper.index_select(0, index)
        return Nodes(self.light.index_select(0, index), hyper)

    def split(self, count: int) -> tuple[Nodes, Nodes]:
        """The first `count` nodes, and the rest."""
        first, second = slice(None, count), slice(count, None)
        hyper = self.hyper
        return (
            Nodes(self.light[first], None if hyper is None else hyper[first]),
            Nodes(self.light[second], None if hyper is None else hyper[second]),
        )

    def fused(self) -> Tensor:
        """Equation 6."""
        return self.light if self.hyper is None else self.light + F.normalize(self.hyper, dim=1)


class HypergraphEncoder(PortionNetwork):
    r"""LightGCN vectors fused with user- and item-level hypergraph vectors.

    .. math::

        \tilde e_u = e_u + h_u / \lVert h_u \rVert, \qquad
        \tilde e_i = e_i + h_i / \lVert h_i \rVert, \qquad
        \hat y_{ui} = \langle \tilde e_u, \tilde e_i \rangle

    Users and items have separate tables for LightGCN and for their hypergraph. Rows are numbered
    from 0; without a padding row, none can enter a denominator.

    Parameters
    ----------
    interactions : csr_array, shape [M, N]
        Binary training interactions.
    incidence : csr_array, shape [N, E], optional
        Item hypergraph; unused without `use_i2i`.
    settings : HeLLMPreSettings

    References
    ----------
    HeLLM, sections 3.2 to 3.4, equations 1 to 7.
    """

    def __init__(
        self, interactions: sp.csr_array, incidence: sp.csr_array | None, settings: HeLLMPreSettings
    ) -> None:
        (n_users, n_items), d = interactions.shape, settings.embedding_size
        super().__init__(interactions, d)
        self.settings = settings
        if settings.use_u2u:
            self.user_hypergraph = UserHypergraph(interactions)
            self.user_hyper_table = xavier(n_users, d)
        if settings.use_i2i:
            if incidence is None:
                raise ValueError("use_i2i needs the incidence matrix of the item hypergraph")
            self.item_hypergraph = ItemHypergraph(incidence)
            self.item_hyper_table = xavier(n_items, d)

    def propagate(self) -> tuple[Nodes, Nodes]:
        """All users and all items after propagation."""
        s = self.settings
        user, item = self.light_gcn(s.n_layers_ui)
        user_hyper = item_hyper = None
        if s.use_u2u:
            user_hyper = self.user_hypergraph.propagate(self.user_hyper_table, s.n_layers_u2u)
        if s.use_i2i:
            item_hyper = self.item_hypergraph.propagate(self.item_hyper_table, s.n_layers_i2i)
        return Nodes(user, user_hyper), Nodes(item, item_hyper)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Fused vectors of all users [M, d] and all items [N, d]."""
        users, items = self.propagate()
        return users.fused(), items.fused()

    def portion_losses(self, portion: Portion, *rows: Tensor) -> dict[str, Tensor]:
        r"""The weighted terms of equation 12; training minimises their sum.

        .. math:: L = L_{BPR} + \lambda \, L_2 + \alpha \, L_{U2U} + \beta \, L_{I2I}

        The sums of equations 7 and 13 are means, and the L2 term is over the batch's fused vectors,
        as in the authors' code and logs. A portion has some of the batch's rows, and some of the
        contrast's anchors with all nodes of their denominators.

        Returns
        -------
        dict of str to Tensor
            ``bpr``, ``reg``, and ``contrast_user`` and ``contrast_item`` where they apply.
        """
        users, positives, negatives = map(portion.of, rows)
        s, (all_users, all_items) = self.settings, self.propagate()
        items = torch.cat([positives, negatives])
        user, user_contrast = self._side(portion, all_users, users, s.alpha_u2u)
        item, item_contrast = self._side(portion, all_items, items, s.beta_i2i)
        positive, negative = item.chunk(2)
        terms = {
            "bpr": losses.bpr_loss((user * positive).sum(1), (user * negative).sum(1)),
            "reg": s.reg_weight * losses.l2_regularisation((user, item), len(users)),
        }
        terms = {name: portion.weighted(term, len(rows[0])) for name, term in terms.items()}
        contrasts = {"contrast_user": user_contrast, "contrast_item": item_contrast}
        return terms | {name: term for name, term in contrasts.items() if term is not None}

    def _side(
        self, portion: Portion, nodes: Nodes, batch: Tensor, weight: float
    ) -> tuple[Tensor, Tensor | None]:
        """Fused vectors of a batch's users or items, and the weighted contrast of their side."""
        s, count = self.settings, len(nodes.light)
        if not s.use_contrast or weight == 0 or nodes.hyper is None:
            return nodes.rows(batch).fused(), None
        if s.contrast == "all" or s.contrast_anchors >= count:
            return nodes.rows(batch).fused(), weight * self._contrast(portion, nodes, None)
        # Uniform for users too, independent of batches; positives would favour popular items.
        anchors = torch.randperm(count, device=nodes.light.device)[: s.contrast_anchors]
        if s.contrast_denominator == "all":
            return nodes.rows(batch).fused(), weight * self._contrast(portion, nodes, anchors)
        # One gather, since the gradient of each gather is as large as the table.
        in_batch, anchored = nodes.rows(torch.cat([batch, anchors])).split(len(batch))
        return in_batch.fused(), weight * self._contrast(portion, anchored, None)

    def _contrast(self, portion: Portion, nodes: Nodes, anchors: Tensor | None) -> Tensor:
        assert nodes.hyper is not None  # noqa: S101
        s, count = self.settings, len(nodes.light) if anchors is None else len(anchors)
        if portion.size > 1 and anchors is None:
            anchors = torch.arange(count, device=nodes.light.device)
        mean = losses.hypergraph_contrast(
            nodes.fused(),
            nodes.hyper,
            s.tau,
            None if anchors is None else portion.of(anchors),
            exclude_self=s.variant == "released",
        )
        return portion.weighted(mean, count)


class HeLLMPre(PortionRecommender):
    """HeLLM's pre-training stage as a RecBole general recommender.

    Features are read only if ``use_i2i`` is set; see :class:`EmbeddingRecommender` for the inputs.
    """

    settings_classes = (HeLLMPreSettings,)
    data_parallel = True

    @property
    def batches(self) -> str:
        """Batches of uniformly drawn users (docs/method.md, Sampling of users)."""
        return "user_uniform"

    def build(self, interactions: sp.csr_array, dataset: Any) -> HypergraphEncoder:
        """The encoder over the training graph and, with `use_i2i`, the item hypergraph."""
        incidence = None
        if self.settings.use_i2i:
            features = {name: entry.matrix for name, entry in dataset.item_features().items()}
            k, search = self.settings.knn_k, self.settings.knn_search
            incidence = knn_incidence(features, k, search=search)
        return HypergraphEncoder(interactions, incidence, self.settings)
