"""SLMRec: graph streams per modality, aligned by contrast (Tao et al., IEEE TMM 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import scipy.sparse as sp
import torch
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_hellm.config.settings import setting
from recbole_hellm.models.general.base import (
    GeneralSettings,
    PortionNetwork,
    PortionRecommender,
    check_features,
    linear,
    modality_tables,
)
from recbole_hellm.models.losses import info_nce
from recbole_hellm.models.portions import Portion


class SLMRecSettings(GeneralSettings):
    """Settings of :class:`SLMRec`; defaults are those of the file that the authors released."""

    n_layers: int = setting(3, "Layers L of LightGCN in every stream.", ge=1)
    tau: float = setting(0.2, "Temperature of the main loss.", gt=0)
    ssl_weight: float = setting(
        0.1, "Weight alpha of the self-supervised loss; 0 leaves it out.", ge=0
    )
    ssl_tau: float = setting(0.2, "Temperature of the self-supervised loss.", gt=0)
    ssl_similarity: Literal["inner", "cosine"] = setting(
        "inner", "Similarity in the self-supervised loss."
    )


class StreamEncoder(PortionNetwork):
    r"""LightGCN over item ids and over every modality, fused by a linear map.

    .. math::

        (U^s, V^s) = \frac{1}{L+1} \sum_{l=0}^{L} \hat A^l (P, Q^s), \qquad
        u = W_u (U^0_u \Vert \dots \Vert U^S_u) + b_u, \qquad
        v = W_v (V^0_i \Vert \dots \Vert V^S_i) + b_v

    with one user table :math:`P` for all streams, an item table :math:`Q^0`, and
    :math:`Q^s_i = W_s f^s_i / \lVert f^s_i \rVert + b_s` for modality s. Rows are numbered from 0.

    Modalities are in the order of :func:`fine_to_coarse`. The propagated features of users and
    items are stored: (M + N) x D_m numbers per modality.

    Parameters
    ----------
    interactions : csr_array, shape [M, N]
        Binary training interactions.
    features : Mapping of str to Tensor, shapes [N, D_m]
        Raw item features by modality.
    settings : SLMRecSettings

    Raises
    ------
    FeatureError
        If there is no modality, or one has rows for other than N items.

    References
    ----------
    Tao et al., "Self-Supervised Learning for Multimedia Recommendation", IEEE Transactions on
    Multimedia 25, 2022, with its operator FAC, feature fine and coarse spaces.
    """

    def __init__(
        self,
        interactions: sp.csr_array,
        features: Mapping[str, Tensor],
        settings: SLMRecSettings,
    ) -> None:
        d = settings.embedding_size
        super().__init__(interactions, d)
        check_features("SLMRec", features, interactions.shape[1])
        self.settings = settings
        self.modalities = fine_to_coarse(features)
        self.projections = nn.ModuleList()
        to_users, to_items = self.graph.to_users, self.graph.to_users.transposed
        for modality in self.modalities:
            # Propagation is linear and features are fixed: propagate them once here, and project
            # them per batch. The column of ones carries the projection's bias.
            table = F.pad(F.normalize(features[modality], dim=1), (0, 1), value=1.0)
            item, user = self._alternate(table, to_users, to_items)
            self.register_buffer(f"user_features_{len(self.projections)}", user, persistent=False)
            self.register_buffer(f"item_features_{len(self.projections)}", item, persistent=False)
            self.projections.append(_without_bias(table.shape[1], d))
        count = len(self.modalities)
        self.fuse_user = linear(d * (count + 1), d)
        self.fuse_item = linear(d * (count + 1), d)
        coarse = [max(1, d // 2)] if count > 1 else []
        spaces = [d] * (count - len(coarse)) + coarse
        self.steps = nn.ModuleList(
            linear(start, end) for start, end in zip([d, *spaces], spaces, strict=False)
        )
        self.heads = nn.ModuleList(linear(d, space) for space in spaces)

    def _alternate(
        self, first: Tensor, to_other: Callable[..., Tensor], to_same: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor]:
        r"""Both sides' parts of :math:`\sum_l \hat A^l` applied to a table of one side.

        Even powers end on the table's side and odd powers on the other side, so one product per
        layer is enough.
        """
        same_side, other_side = first, to_other(first)
        for layer in range(1, self.settings.n_layers):
            if layer % 2:
                same_side = to_same(other_side, first)
            else:
                other_side = to_other(same_side)
        return same_side, other_side

    def streams(
        self, users: Tensor | None = None, items: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors of users [m, S + 1, d] and items [n, S + 1, d]: ids, then modalities.

        Parameters
        ----------
        users, items : Tensor of int64, shapes [m] and [n], optional
            Rows; all by default.
        """
        # Streams share the user table, so compute its part once.
        to_users, to_items = self.graph.to_users, self.graph.to_users.transposed
        user_own, user_other = self._alternate(self.user_table, to_items, to_users)
        item_own, item_other = self._alternate(self.item_table, to_users, to_items)
        result = []
        for side, rows, shared, ids in (
            ("user", users, user_own, item_other),
            ("item", items, user_other, item_own),
        ):
            streams = [_rows(ids, rows)]
            for index, projection in enumerate(self.projections):
                streams.append(projection(_rows(getattr(self, f"{side}_features_{index}"), rows)))
            total = torch.stack(streams, 1) + _rows(shared, rows)[:, None]
            result.append(total / (self.settings.n_layers + 1))
        return result[0], result[1]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Fused vectors of all users [M, d] and all items [N, d]."""
        users, items = self.streams()
        return self.fuse_user(users.flatten(1)), self.fuse_item(items.flatten(1))

    def portion_losses(self, portion: Portion, *rows: Tensor) -> dict[str, Tensor]:
        r"""The main loss and the weighted self-supervised one.

        .. math::

            L = -\frac1B \sum_b \log \frac{\exp(\cos(u_b, v_b) / \tau)}
                {\sum_{i \in N_b} \exp(\cos(u_b, v_i) / \tau)} + \alpha L_{FAC}

        with :math:`N_b` the batch's distinct items except other items of b's user in the batch,
        which are not negatives. This package counts items once and leaves these out. A portion has
        some of the batch's rows, and some of its items for :math:`L_{FAC}`, with the whole batch's
        items in their denominators.

        Returns
        -------
        dict of str to Tensor
            ``main``, and ``ssl`` unless its weight is 0.
        """
        users, positives = rows
        s = self.settings
        items, columns = positives.unique(return_inverse=True)
        user, item = self.streams(portion.of(users), items)
        main = info_nce(
            self.fuse_user(user.flatten(1)),
            self.fuse_item(item.flatten(1)),
            s.tau,
            positives=portion.of(columns),
            left_out=portion.of(_other_positives(users, columns, len(items))),
        )
        terms = {"main": portion.weighted(main, len(users))}
        if s.ssl_weight:
            terms["ssl"] = s.ssl_weight * self._alignment(portion, item)
        return terms

    def _alignment(self, portion: Portion, item: Tensor) -> Tensor:
        r"""FAC: ids meet the first modality in a fine space, the others in ever coarser ones.

        .. math::

            L_{FAC} = \sum_{s=1}^{S} \mathrm{InfoNCE}(x_s, h_s(V^s)), \qquad
            x_s = g_s(x_{s-1}), \quad x_0 = V^0

        over the batch's distinct items, with linear :math:`g_s` and :math:`h_s` into a space of d
        dimensions, or d / 2 for the last of several modalities.

        Parameters
        ----------
        portion : Portion
            The items whose terms are computed.
        item : Tensor, shape [n, S + 1, d]
        """
        query, *modalities = item.unbind(1)
        query, terms = portion.of(query), []
        positives = portion.of(torch.arange(len(item), device=item.device))
        for step, head, vectors in zip(self.steps, self.heads, modalities, strict=True):
            query = step(query)
            cosine = self.settings.ssl_similarity == "cosine"
            terms.append(
                info_nce(query, head(vectors), self.settings.ssl_tau, cosine, positives=positives)
            )
        return portion.weighted(torch.stack(terms).sum(), len(item))


class SLMRec(PortionRecommender):
    """SLMRec as a RecBole general recommender; see :class:`EmbeddingRecommender` for the inputs."""

    input_type = InputType.POINTWISE
    settings_classes = (SLMRecSettings,)
    data_parallel = True

    def build(self, interactions: sp.csr_array, dataset: Any) -> StreamEncoder:
        """The encoder over the training graph and all modalities."""
        return StreamEncoder(interactions, modality_tables(dataset), self.settings)


def fine_to_coarse(modalities: Iterable[str]) -> list[str]:
    """Modalities in the order of their alignment: by name, with texts last.

    The paper aligns ids with images first, then sound, and text in the coarsest space. A single
    modality shares the fine space with the ids.
    """
    return sorted(modalities, key=lambda name: (name.startswith("text"), name))


def _other_positives(users: Tensor, items: Tensor, n_items: int) -> Tensor:
    """Items that other rows of the batch pair with a row's user, shape [B, n_items]."""
    distinct, numbers = users.unique(return_inverse=True)
    together = torch.zeros(len(distinct), n_items, dtype=torch.bool, device=users.device)
    together[numbers, items] = True
    return together[numbers].scatter_(1, items[:, None], False)


def _rows(table: Tensor, rows: Tensor | None) -> Tensor:
    return table if rows is None else table.index_select(0, rows)


def _without_bias(inputs: int, outputs: int) -> nn.Linear:
    """A linear map whose last input is 1; its last weight is the bias."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    with torch.no_grad():
        layer.weight[:, -1] = 0.0
    return layer
