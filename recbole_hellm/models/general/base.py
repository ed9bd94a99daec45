"""Base classes of this package's general recommenders: inputs, scoring, RecBole's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_hellm.config.settings import Settings, require, setting
from recbole_hellm.errors import FeatureError
from recbole_hellm.graph.bipartite import BipartiteGraph, interaction_matrix
from recbole_hellm.graph.faiss_search import Search
from recbole_hellm.models.portions import WHOLE, Portion


class GeneralSettings(Settings):
    """Settings of every baseline over the user-item graph."""

    embedding_size: int = setting(64, "Width d of the embeddings.", ge=1)
    sampling: Literal["interactions", "users"] = setting(
        "interactions",
        "What an epoch draws uniformly: training interactions, so that active users weigh more, or "
        "users with one of their items each, as the metrics weigh them.",
    )


class NeighbourSettings(Settings):
    """Settings of models that search the nearest items of each item."""

    knn_search: Search = setting(
        "exact",
        "How nearest items are searched: exact; faiss-flat, which finds the same ones; or the "
        "approximate faiss-hnsw and faiss-ivf, whose recall is logged. Those of faiss need the "
        "extra faiss.",
        hash_neutral=True,
    )


class EmbeddingNetwork(nn.Module):
    """A network whose score of a pair is the inner product of a user's and an item's vector.

    Rows are numbered from 0; there is no padding row.
    """

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [M, d] and all items [N, d], whose inner products are the scores."""
        raise NotImplementedError

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        """Named, weighted loss terms, whose sum is minimised.

        Parameters
        ----------
        *rows : Tensor of int64, shape [B] each
            Row numbers from 0 of users, of their items and, for models with negatives, of
            items without interaction.

        Returns
        -------
        dict of str to Tensor
            Scalars by name.
        """
        raise NotImplementedError

    def start_epoch(self) -> None:
        """Redraw or rebuild what is fixed during an epoch; does nothing by default."""


class LightGCNNetwork(EmbeddingNetwork):
    """A network with user and item tables and the training graph for their propagation.

    Parameters
    ----------
    interactions : csr_array, shape [M, N]
        Binary training interactions.
    embedding_size : int
        d.

    Attributes
    ----------
    graph : BipartiteGraph
    user_table, item_table : Parameter, shapes [M, d] and [N, d]
        Initialised Xavier-uniform.
    """

    def __init__(self, interactions: sp.csr_array, embedding_size: int) -> None:
        super().__init__()
        self.graph = BipartiteGraph(*interactions.nonzero(), *interactions.shape)
        self.user_table, self.item_table = (
            xavier(rows, embedding_size) for rows in interactions.shape
        )

    def light_gcn(self, layers: int) -> tuple[Tensor, Tensor]:
        """The tables after LightGCN's propagation over the training graph."""
        return self.graph.light_gcn(self.user_table, self.item_table, layers)


class EmbeddingRecommender(GeneralRecommender):
    """A general recommender around an :class:`EmbeddingNetwork`.

    Subclasses name their settings in ``settings_classes`` and build their network in :meth:`build`.
    ``input_type`` is ``PAIRWISE`` if the loss needs negatives, else ``POINTWISE``. Those whose
    losses are means over a batch's rows set ``data_parallel``.

    Parameters
    ----------
    config : Mapping
        RecBole's configuration with the keys of the model's settings.
    dataset : Dataset
        The training split: ``inter_feat`` with its user and item ids, and ``item_features()``
        with features by modality, whose ``matrix`` [N, D] has a row for each item 1..N.

    Raises
    ------
    ConfigError
        If a setting is out of range.
    FeatureError
        If item features that the model reads are missing or unusable.
    """

    input_type = InputType.PAIRWISE
    settings_classes: ClassVar[tuple[type[Settings], ...]]

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.settings: Any = self.settings_classes[0].from_config(config)
        if self.input_type == InputType.POINTWISE and "train_neg_sample_args" in config:
            sampling = config["train_neg_sample_args"] or {"distribution": "none"}
            # RecBole would mix sampled items with the positives.
            require(
                sampling["distribution"] == "none",
                f"{type(self).__name__} draws no negatives; remove "
                f"train_neg_sample_args={sampling}.",
            )
        users, items = (
            np.asarray(dataset.inter_feat[field]) - 1 for field in (self.USER_ID, self.ITEM_ID)
        )
        interactions = interaction_matrix(users, items, self.n_users - 1, self.n_items - 1)
        self.network = self.build(interactions, dataset)
        self.last_losses: dict[str, Tensor] = {}
        self._vectors: tuple[Tensor, Tensor] | None = None
        self.register_load_state_dict_post_hook(_forget)

    def build(self, interactions: sp.csr_array, dataset: Any) -> EmbeddingNetwork:
        """The model's network.

        Parameters
        ----------
        interactions : csr_array, shape [M, N]
            Binary training interactions.
        dataset : Dataset
            The training split with its item features.
        """
        raise NotImplementedError

    @property
    def batches(self) -> str:
        """Kind of training batches: over interactions, or over uniformly drawn users."""
        return "user_uniform" if self.settings.sampling == "users" else "interactions"

    def start_epoch(self) -> None:
        """Called by the trainer before an epoch's first batch."""
        self.network.start_epoch()

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Sum of the loss terms; ``last_losses`` holds the detached terms."""
        return self._total(self.network.losses(*self._rows(interaction)))

    def _rows(self, interaction: Any) -> list[Tensor]:
        """The rows of :meth:`EmbeddingNetwork.losses`."""
        columns = [self.USER_ID, self.ITEM_ID]
        if self.input_type == InputType.PAIRWISE:
            columns.append(self.NEG_ITEM_ID)
        return [interaction[column] - 1 for column in columns]

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        self.last_losses = {name: term.detach() for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum()

    def train(self, mode: bool = True) -> EmbeddingRecommender:
        """Switch between training and evaluation; clears cached vectors."""
        self._vectors = None
        super().train(mode)
        return self

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Scores of pairs, shape [B]."""
        user, item = self.vectors()
        rows = user[interaction[self.USER_ID] - 1], item[interaction[self.ITEM_ID] - 1]
        return (rows[0] * rows[1]).sum(1)

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, shape [B, N + 1], with padding at minus infinity."""
        user, item = self.vectors()
        rows = user[interaction[self.USER_ID] - 1]
        # Written in place: padding the product would copy the largest matrix.
        scores = rows.new_empty(len(rows), len(item) + 1)
        scores[:, 0] = -torch.inf
        torch.mm(rows, item.T, out=scores[:, 1:])
        return scores

    @torch.no_grad()
    def export_embeddings(self) -> dict[str, Tensor]:
        """Scoring vectors by internal id: ``user`` [M + 1, d], ``item`` [N + 1, d], row 0 zero."""
        user, item = self.vectors()
        return {"user": F.pad(user, (0, 0, 1, 0)), "item": F.pad(item, (0, 0, 1, 0))}

    def vectors(self) -> tuple[Tensor, Tensor]:
        """The network's output; cached in evaluation until weights change."""
        if self.training:
            return self.network()
        if self._vectors is None:
            self._vectors = self.network()
        return self._vectors


class PortionNetwork(LightGCNNetwork):
    """A network whose loss has terms beside means over a batch's rows, and can still be divided."""

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        """The terms of :meth:`portion_losses` of the whole."""
        return self.portion_losses(WHOLE, *rows)

    def portion_losses(self, portion: Portion, *rows: Tensor) -> dict[str, Tensor]:
        """One portion of each loss term: a term is the sum of its portions.

        Parameters
        ----------
        portion : Portion
        *rows : Tensor of int64, shape [B] each
            Those of the whole batch, as for :meth:`EmbeddingNetwork.losses`.
        """
        raise NotImplementedError


class PortionRecommender(EmbeddingRecommender):
    """A recommender around a :class:`PortionNetwork`.

    Several processes get the whole batch each, with the same random numbers, and compute a portion
    of its loss.
    """

    network: PortionNetwork

    def portion_loss(self, interaction: Any, portion: Portion) -> Tensor:
        """One portion of :meth:`calculate_loss`, which is the sum over all portions."""
        return self._total(self.network.portion_losses(portion, *self._rows(interaction)))


def _forget(model: nn.Module, _: Any) -> None:
    """Drop vectors of replaced weights."""
    model._vectors = None  # type: ignore[assignment]


def xavier(rows: int, columns: int) -> nn.Parameter:
    """An embedding table with Xavier-uniform entries."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, columns)))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def check_features(model: str, features: Mapping[str, Tensor], n_items: int) -> None:
    """Check that there are features, and that every modality has a row for each item.

    Raises
    ------
    FeatureError
        If a check fails; the message names the model.
    """
    if not features:
        raise FeatureError(
            f"{model} needs item features of at least one modality; encode texts or images."
        )
    for modality, table in features.items():
        if len(table) != n_items:
            raise FeatureError(
                f"{model} needs features of {n_items} items; modality '{modality}' has features "
                f"of {len(table)}, so encode it again."
            )


def register_features(module: nn.Module, name: str, table: Tensor, trained: bool) -> None:
    """Register raw item features with `module`.

    Parameters
    ----------
    module : Module
    name : str
        Name of the attribute.
    table : Tensor, shape [N, D]
    trained : bool
        Whether the features initialise a parameter. Fixed features are a buffer outside
        ``state_dict``, since they are read from files.
    """
    if trained:
        module.register_parameter(name, nn.Parameter(table.clone()))
    else:
        module.register_buffer(name, table, persistent=False)


def modality_tables(dataset: Any) -> dict[str, Tensor]:
    """Raw item features by modality, each divided by its root mean square.

    Encoders differ in the scale of their vectors. With one scale, no modality outweighs another,
    and one learning rate suits all. Cosines do not change.

    Returns
    -------
    dict of str to Tensor, shapes [N, D_m]
        In torch's default type.
    """
    tables = {}
    for name, entry in dataset.item_features().items():
        table = torch.as_tensor(np.asarray(entry.matrix)).to(torch.get_default_dtype())
        scale = table.square().mean().sqrt()
        tables[name] = table / scale if scale > 0 else table
    return tables
