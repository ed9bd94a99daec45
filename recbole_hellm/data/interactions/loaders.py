"""Training batches: RecBole's loaders where they serve, length-bucketed and user-wise ones else.

Every loader here can save and restore the state of its random numbers, so that a resumed run sees
the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.data.utils import create_samplers, get_dataloader

from recbole_hellm.data.interactions.batches import (
    BucketedBatches,
    mixed_lengths,
    sequence_rows,
    target_rows,
)
from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.data.interactions.history_rows import HistoryRows
from recbole_hellm.data.interactions.sampler import UserUniformSampler
from recbole_hellm.errors import DataError

FIRST_TARGET = "first_target"
"""Column that says how many items stand before a row's first target."""


def trim_histories(rows: Interaction, length_field: str, suffix: str) -> Interaction:
    """Cut right-padded list columns to the longest history among `rows`.

    Exact for models that mask padding and index positions from the left.
    """
    longest = int(rows[length_field].max())
    return Interaction(
        {
            name: rows[name][:, :longest] if name.endswith(suffix) else rows[name]
            for name in rows.columns
        }
    )


class _Loader:
    """Common part: length, device-independent batches, saved random state."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Interaction]:
        for batch in self.batches:
            yield self.collate(batch)

    def collate(self, batch: Any) -> Interaction:
        """One batch as a RecBole ``Interaction``."""
        return Interaction(batch)

    def state_dict(self) -> dict[str, Any]:
        """State of the random numbers."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.batches.load_state_dict(state)


class HistoryLoader(_Loader):
    """(history, next item) samples of a training split, trimmed to a batch's longest.

    Parameters
    ----------
    config : HellmConfig
    part : Dataset
        The training split.
    users : ndarray of int64, optional
        Whose samples; everybody's by default.
    """

    def __init__(self, config: Any, part: Any, users: np.ndarray | None = None) -> None:
        self.rows = part.inter_feat
        if users is not None:
            owners = self.rows[config["USER_ID_FIELD"]].numpy()
            self.rows = self.rows[np.isin(owners, users)]
        self.length_field = config["ITEM_LIST_LENGTH_FIELD"]
        self.suffix = config["LIST_SUFFIX"]
        lengths = self.rows[self.length_field].numpy()
        if isinstance(self.rows, HistoryRows):
            empty = self.rows.lists.counts.numpy() == 0
        else:  # of a dataset class of RecBole's own
            empty = self.rows[config["ITEM_ID_FIELD"] + self.suffix][:, 0].numpy() == 0
        lengths = mixed_lengths(lengths, empty, config["seed"])
        size, similar = config["train_batch_size"], config["bucket_by_length"]
        super().__init__(BucketedBatches(lengths, size, config["seed"], similar=similar))

    def collate(self, batch: np.ndarray) -> Interaction:
        return trim_histories(self.rows[batch], self.length_field, self.suffix)


class _Stretches(_Loader):
    """Rows that are stretches of users' training sequences, each with several targets.

    Batches hold ``user_id`` [B] and the item list [B, T + 1], right-padded with 0, with its length.

    Parameters
    ----------
    config : HellmConfig
    histories : Histories
    users, starts, lengths, targets : ndarray of int64, shape [R]
        Owner of each row, place of its first item in ``histories.items``, numbers of its items
        and of its targets, which are the last of them. Places before the owner's are padding.
    """

    def __init__(
        self,
        config: Any,
        histories: Histories,
        users: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        targets: np.ndarray,
    ) -> None:
        self.config = config
        self.items, self.begins = histories.items, histories.offsets[users]
        self.users, self.starts, self.lengths, self.targets = users, starts, lengths, targets
        size, similar = config["train_batch_size"], config["bucket_by_length"]
        sorting = mixed_lengths(lengths, starts < self.begins, config["seed"])
        super().__init__(BucketedBatches(sorting, size, config["seed"], targets, similar))

    def collate(self, batch: np.ndarray) -> Interaction:
        lengths = self.lengths[batch]
        columns = np.arange(lengths.max())
        positions = self.starts[batch][:, None] + columns
        valid = (columns < lengths[:, None]) & (positions >= self.begins[batch][:, None])
        positions = np.where(valid, positions, 0)
        items = np.where(valid, self.items[positions], 0)
        item_list = self.config["ITEM_ID_FIELD"] + self.config["LIST_SUFFIX"]
        return Interaction(
            {
                self.config["USER_ID_FIELD"]: torch.from_numpy(self.users[batch]),
                item_list: torch.from_numpy(items),
                self.config["ITEM_LIST_LENGTH_FIELD"]: torch.from_numpy(lengths),
            }
        )


class SequenceLoader(_Stretches):
    """Whole training sequences, see :func:`batches.sequence_rows`."""

    def __init__(self, config: Any, dataset: Any, users: np.ndarray | None = None) -> None:
        limit, first = config["MAX_ITEM_LIST_LENGTH"], config["first_item_target"]
        rows = sequence_rows(dataset.histories, limit, users, first)
        super().__init__(config, dataset.histories, *rows)


class TargetLoader(_Stretches):
    """The samples of :class:`HistoryLoader`, those of one user together in a row.

    The column :data:`FIRST_TARGET` is there besides.
    """

    def __init__(self, config: Any, dataset: Any, users: np.ndarray | None = None) -> None:
        histories = dataset.histories
        limit, size = config["MAX_ITEM_LIST_LENGTH"], config["train_batch_size"]
        rows = target_rows(histories, limit, size, users, config["first_item_target"])
        super().__init__(config, histories, *rows)

    def collate(self, batch: np.ndarray) -> Interaction:
        rows = super().collate(batch)
        first = self.lengths[batch] - self.targets[batch]
        rows.update(Interaction({FIRST_TARGET: torch.from_numpy(first)}))
        return rows


class UserUniformLoader(_Loader):
    """(user, positive, negative) triples; users are drawn uniformly.

    Source: docs/method.md, Sampling of users.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        users, items = dataset.histories.training(np.arange(dataset.user_num))
        super().__init__(
            UserUniformSampler(
                users,
                items,
                n_users=dataset.user_num,
                n_items=dataset.item_num,
                batch_size=config["train_batch_size"],
                seed=config["seed"],
            )
        )
        self.fields = {
            "user_id": config["USER_ID_FIELD"],
            "item_id": config["ITEM_ID_FIELD"],
            "neg_item_id": config["NEG_PREFIX"] + config["ITEM_ID_FIELD"],
        }

    def collate(self, batch: dict[str, torch.Tensor]) -> Interaction:
        return Interaction({self.fields[name]: values for name, values in batch.items()})


class RecBoleLoader(_Loader):
    """RecBole's own loader, with its random state made restorable."""

    def __getattr__(self, name: str) -> Any:
        # RecBole's special trainers talk to their loader, e.g. KGTrainer through set_mode.
        return getattr(self.__dict__["batches"], name)

    def collate(self, batch: Interaction) -> Interaction:
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {name: part.generator.get_state() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.generator.set_state(state[name])

    def _parts(self) -> dict[str, Any]:
        """Loaders with a generator: two where RecBole reads a knowledge graph beside."""
        if hasattr(self.batches, "generator"):
            return {"generator": self.batches}
        return {"general": self.batches.general_dataloader, "graph": self.batches.kg_dataloader}


def training_loader(config: Any, dataset: Any, parts: list[Any], model: Any) -> Any:
    """The training batches that `model` asks for.

    A model of this package names its batches in the attribute ``batches``: ``user_uniform``,
    ``sequences``, ``targets`` or ``histories``. For the last three, the attribute ``train_users``
    may restrict training to a share of the users. Every other model gets RecBole's loader, or
    length-bucketed histories where ``bucket_by_length`` is set and no negatives are drawn. With
    ``first_item_target``, the rows of histories include one for every user's first item.

    Raises
    ------
    DataError
        If no user has an item to learn, or RecBole cannot draw negatives from this dataset.
    """
    name = config["dataset"]
    sequential = config["MODEL_TYPE"].name == "SEQUENTIAL"
    first_items = config["first_item_target"]
    if first_items:
        parts = [parts[0].with_first_items(), *parts[1:]]
    elif sequential and dataset.histories.training_lengths.max() < 2:
        raise DataError(
            f"No user of '{name}' has two interactions beside those that are held out, so there "
            "is no next item to learn; use a larger dataset, or a general model such as BPR."
        )
    kind = getattr(model, "batches", None)
    share = getattr(model, "train_users", 1.0)
    users = None
    if share != 1:
        users = dataset.histories.learning_users(share, config["seed"], first_items)
    arguments = config["train_neg_sample_args"]
    if kind == "user_uniform":
        return UserUniformLoader(config, dataset)
    if kind == "sequences":
        return SequenceLoader(config, dataset, users)
    if kind == "targets":
        return TargetLoader(config, dataset, users)
    if kind == "histories" or (
        config["bucket_by_length"]
        and config["ITEM_LIST_LENGTH_FIELD"] in parts[0].inter_feat
        and arguments["distribution"] == "none"
    ):
        return HistoryLoader(config, parts[0], users)
    try:
        sampler, _, _ = create_samplers(config, dataset, parts)
    except ValueError as error:
        if "interacted with all items" not in str(error):
            raise DataError(f"Dataset '{name}': {error}") from error
        raise DataError(
            f"Some users of '{name}' have interacted with all {dataset.item_num - 1} items, so "
            "there are no negative items to draw for them; use a larger dataset, or a model that "
            "draws none, such as SASRec."
        ) from error
    if config["MODEL_TYPE"].name == "KNOWLEDGE":
        from recbole.sampler import KGSampler

        knowledge = KGSampler(dataset, arguments["distribution"], arguments["alpha"])
        loader = get_dataloader(config, "train")(config, parts[0], sampler, knowledge, shuffle=True)
    else:
        loader = get_dataloader(config, "train")(
            config, parts[0], sampler, shuffle=config["shuffle"]
        )
    return RecBoleLoader(loader)
