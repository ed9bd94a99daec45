"""RecBole datasets in canonical order, with one split, a fingerprint and item features.

RecBole reads atomic files, filters and assigns ids; the classes here put the rows into canonical
order before ids exist, split them as the settings say, and prove with a fingerprint that general
and sequential models get the same validation and test items.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data import dataset as recbole_datasets
from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType, ModelType

from recbole_hellm import recbole_models
from recbole_hellm.data.features.encoders.text import named_features
from recbole_hellm.data.features.store import Features, features_fingerprint, load_features
from recbole_hellm.data.interactions.filtering import CountedFiltersMixin
from recbole_hellm.data.interactions.further_columns import columns_hash
from recbole_hellm.data.interactions.held_out import random_order
from recbole_hellm.data.interactions.histories import PHASES, Histories
from recbole_hellm.data.interactions.history_rows import HistoryRows, Stretches, taken
from recbole_hellm.data.interactions.splits import (
    POSITION,
    candidate_fingerprint,
    canonical_order,
    histories_hash,
    parts_fingerprint,
    split_fingerprint,
)
from recbole_hellm.data.interactions.splitting import (
    held_out_counts,
    split_histories,
    tell_held_out,
)
from recbole_hellm.data.interactions.target_rows import TargetRows, Unit
from recbole_hellm.data.preparation.manifest import check_files
from recbole_hellm.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


class CanonicalMixin(CountedFiltersMixin):
    """What every dataset of this package adds to RecBole's; mixed in before a RecBole class."""

    config: Any
    dataset_name: str
    inter_feat: Any
    item_feat: Any
    uid_field: str
    iid_field: str
    time_field: str
    num: Any
    id2token: Any
    histories: Histories
    tied_tests: np.ndarray
    """Whether each test user's first test item has the time of the one before, bool [E]."""
    columns_hash: str | None
    """Hash of what is read beside users, items and their order; None if nothing is."""

    def _load_data(self, token: str, dataset_path: str) -> None:
        """Answers dataset.py:253: RecBole downloads, or exits, where files are missing."""
        path = Path(dataset_path) / f"{token}.inter"
        if not path.is_file():
            raise DataError(
                f"Dataset '{token}' needs {path}; make it with `recbole-hellm prepare "
                f"--dataset={token}` or put RecBole atomic files there."
            )
        check_files(path.parent)
        try:
            super()._load_data(token, dataset_path)  # type: ignore[misc]
        except ValueError as error:  # RecBole's way to report a missing file
            raise DataError(f"Dataset '{token}' cannot be loaded: {error}") from error
        for field in (self.uid_field, self.iid_field):
            if self.inter_feat is None or field not in self.inter_feat:
                raise DataError(
                    f"{path} has no column '{field}:token'; add it, or set its name with "
                    "USER_ID_FIELD or ITEM_ID_FIELD."
                )
        self._time_column()

    def _get_load_and_unload_col(self, source: Any) -> tuple[set[str] | None, set[str] | None]:
        """Answers dataset.py:394: ids, time and position are read whatever ``load_col`` says."""
        load, unload = super()._get_load_and_unload_col(source)  # type: ignore[misc]
        if source == FeatureSource.INTERACTION and load is not None:
            needed = (self.uid_field, self.iid_field, self.time_field)
            load = load | {field for field in needed if field} | {POSITION}
        return load, unload

    def _data_filtering(self) -> None:
        super()._data_filtering()
        self._order_canonically()

    def _time_column(self) -> str:
        """Column that orders interactions, checked."""
        frame, time = self.inter_feat, self.time_field
        column = next((field for field in (time, POSITION) if field in frame), None)
        if column is None:
            raise DataError(
                f"Dataset '{self.dataset_name}' has neither the time field '{time}' nor "
                f"'{POSITION}'; set TIME_FIELD to the name of its time column, or where there is "
                "none, make a dataset in the order of the rows with `recbole-hellm prepare "
                f"--dataset=my{self.dataset_name} --interactions="
                f"{self.config.dataset_directory / self.dataset_name}.inter`."
            )
        missing = frame[column].isna().to_numpy()
        if missing.any():
            row = int(np.flatnonzero(missing)[0])
            raise DataError(
                f"{self.dataset_name}.inter, line {row + 2}: the {column} is missing; fill it "
                "in, or remove the line."
            )
        return column

    def _order_canonically(self) -> None:
        uid, iid = self.uid_field, self.iid_field
        self._ordered_by, frame = self._time_column(), self.inter_feat
        ordered = canonical_order(frame, uid, iid, self._ordered_by)
        ordered[POSITION] = ordered[POSITION].astype(np.float64)
        if self.config["split_order"] == "random":
            positions = ordered[POSITION].to_numpy()
            order = random_order(ordered[uid].to_numpy(), self.config["split_seed"])
            ordered = ordered.iloc[order].reset_index(drop=True)
            ordered[POSITION] = positions
        self.inter_feat = ordered
        self.field2type[POSITION] = FeatureType.FLOAT
        self.field2source[POSITION] = FeatureSource.INTERACTION
        self.field2seqlen[POSITION] = 1
        # float32 keeps a position exactly and a time stamp only to 128 s (interaction.py).
        self.time_field = POSITION
        # Items without interactions would enter the id map, and so the candidate set.
        for name, field in (("item_feat", iid), ("user_feat", uid)):
            feat = getattr(self, name)
            if feat is not None:
                known = feat[feat[field].isin(ordered[field])]
                setattr(self, name, known.reset_index(drop=True))
        parts = {name: getattr(self, f"{name}_feat", None) for name in ("item", "user", "kg")}
        self.columns_hash = columns_hash(
            {"inter": ordered, **parts},
            getattr(self, "item2entity", None),
            left_out=(uid, iid, self._ordered_by, self.config["TIME_FIELD"], POSITION),
        )

    def _remap_ID_all(self) -> None:  # noqa: N802 (RecBole's name)
        super()._remap_ID_all()  # type: ignore[misc]
        users = self.inter_feat[self.uid_field].to_numpy()
        items = self.inter_feat[self.iid_field].to_numpy()
        # Times are exact here; RecBole makes them float32 next.
        times = self.inter_feat[self._ordered_by].to_numpy()
        timed = None if self._ordered_by == POSITION else times
        histories = split_histories(self.config, users, items, self.num(self.uid_field), timed)
        self.histories = histories
        times = times[np.argsort(users, kind="stable")]
        evaluated = histories.evaluated("test")
        first = histories.offsets[evaluated] + histories.before("test")[evaluated]
        self.tied_tests = times[first] == times[first - 1]
        if self.config["split"] != "leave_one_out":
            tell_held_out(self.dataset_name, self.held_out)

    def leave_one_out(self, group_by: str, leave_one_mode: str) -> list[Any]:
        """Answers dataset.py:1673: the split is that of the histories, whatever kind it is.

        Rows of a part have RecBole's order: users as they appear, and each one's rows as they are.
        RecBole makes Python lists of all row numbers.
        """
        owners = self.inter_feat[group_by].numpy()
        _, first, numbers = np.unique(owners, return_index=True, return_inverse=True)
        order = np.argsort(first[numbers], kind="stable")
        owners = owners[order]
        begins = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        within = np.arange(len(owners)) - np.repeat(begins, np.diff(np.r_[begins, len(owners)]))
        left_out = 1 if isinstance(self, SequentialDataset) else 0  # first items have no row
        parts = (within >= np.maximum(self.histories.bounds - left_out, 0)[:, owners]).sum(axis=0)
        self._drop_unused_col()  # type: ignore[attr-defined]
        rows = [torch.from_numpy(order[parts == part]) for part in range(3)]
        return [self.copy(taken(self.inter_feat, chosen)) for chosen in rows]  # type: ignore[attr-defined]

    def build(self) -> list[Any]:
        """Split, and check the split against the canonical order.

        Returns
        -------
        list of Dataset
            Training, validation and test.

        Raises
        ------
        DataError
            If RecBole's split is not the canonical one.
        """
        datasets: list[Any] = super().build()  # type: ignore[misc]
        for phase, part in zip(PHASES, datasets[1:], strict=True):
            rows = self.part_rows(part, phase, "interaction")
            items = part.inter_feat[self.iid_field].numpy()[rows]
            if not np.array_equal(items, self.histories.targets(phase)):
                split = self.config["split"].replace("_", "-")
                raise DataError(f"The {phase} split is not the canonical {split} split.")
        return datasets

    @property
    def unit(self) -> Unit:
        """What a row of the evaluation holds: all targets of a user, or one of them."""
        if self.config["split_rows"] != "auto":
            return self.config["split_rows"]  # type: ignore[no-any-return]
        return "interaction" if isinstance(self, SequentialDataset) else "user"

    def target_rows(self, phase: str, unit: Unit | None = None) -> TargetRows:
        """The rows that are evaluated in `phase`; by default of :attr:`unit`."""
        return TargetRows.of(self.histories, phase, unit or self.unit)

    def part_rows(self, part: Any, phase: str, unit: Unit | None = None) -> np.ndarray:
        """The row of a split that begins each of :meth:`target_rows`, int64 [R]."""
        owners, positions = (part.inter_feat[name].numpy() for name in (self.uid_field, POSITION))
        return self.target_rows(phase, unit).places_among(self.histories, phase, owners, positions)

    @functools.cached_property
    def held_out(self) -> dict[str, Any]:
        """What is evaluated, and what training does not know of it; see `held_out_counts`."""
        return held_out_counts(self.histories, self.training_counts, self.unit)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every evaluated user's validation and test items, by token."""
        held = {phase: TargetRows.of(self.histories, phase, "interaction") for phase in PHASES}
        users = {phase: self.id2token(self.uid_field, of.users) for phase, of in held.items()}
        items = {phase: self.id2token(self.iid_field, of.items) for phase, of in held.items()}
        if self.config["split"] == "leave_one_out":
            return split_fingerprint(list(users["test"]), *map(list, items.values()))
        return parts_fingerprint(
            (user, phase, item)
            for phase in PHASES
            for user, item in zip(users[phase], items[phase], strict=True)
        )

    @functools.cached_property
    def interactions_hash(self) -> str:
        """Hash of every user's items in order, by token: all that training and masking read."""
        items = self.field2id_token[self.iid_field][self.histories.items]
        rows = np.split(items, self.histories.offsets[2:-1])  # user 0 is empty
        return histories_hash(
            (user, *row) for user, row in zip(self.user_tokens, rows, strict=True)
        )

    @functools.cached_property
    def candidates_hash(self) -> str:
        """Hash of the item tokens that are ranked."""
        return candidate_fingerprint(list(self.item_tokens))

    @property
    def training_counts(self) -> np.ndarray:
        """Training interactions of each item by id, int64 [N + 1]."""
        _, items = self.histories.training(np.arange(len(self.histories.lengths)))
        return np.bincount(items, minlength=self.num(self.iid_field))

    @property
    def item_tokens(self) -> np.ndarray:
        """Tokens of items 1..N, in id order."""
        return self.field2id_token[self.iid_field][1:]

    @property
    def user_tokens(self) -> np.ndarray:
        """Tokens of users 1..M, in id order."""
        return self.field2id_token[self.uid_field][1:]

    def item_features(self) -> Mapping[str, Features]:
        """Item features by modality; rows are items 1..N in id order.

        Raises
        ------
        FeatureError
            If they are missing, do not cover the items, or hold NaN.
        """
        return self._item_features

    @functools.cached_property
    def _item_features(self) -> Mapping[str, Features]:
        config = self.config
        names = config["features"]
        if names is not None and not isinstance(names, list):
            raise ConfigError(f"features={names!r} must be a list, e.g. --features='[text-tfidf]'.")
        directory = config.dataset_directory
        if names is None:
            names = named_features(directory, config["text_encoder"])
        return load_features(directory, list(self.item_tokens), names)

    @property
    def features_fingerprint(self) -> str:
        """Hash of the item features that models of this dataset get."""
        return features_fingerprint(self.item_features())


class GeneralDataset(CanonicalMixin, Dataset):
    """Interactions one by one, for general recommenders."""


class GraphDataset(CanonicalMixin, KnowledgeBasedDataset):
    """Interactions one by one and a knowledge graph, for knowledge-aware recommenders."""


class HistoryDataset(CanonicalMixin, SequentialDataset):
    """Histories with the item that follows, for sequential recommenders.

    Attributes
    ----------
    inter_feat : HistoryRows
    first_rows : Interaction
        Every user's first interaction, which RecBole's rows lack, without a history.
    """

    inter_feat: HistoryRows
    first_rows: Interaction

    def data_augmentation(self) -> None:
        """RecBole's augmentation, row for row, without its lists until they are read.

        Answers sequential_dataset.py:108-147, whose Python loop over rows and fields takes most of
        the loading time, and its lists most of the memory. Row order, padding and lengths are the
        same.
        """
        self._aug_presets()
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        limit = self.max_item_list_len
        users = self.inter_feat[self.uid_field].numpy()
        first = np.r_[True, users[1:] != users[:-1]]
        starts = np.flatnonzero(first)[np.cumsum(first) - 1]
        targets = np.flatnonzero(~first)
        self.first_rows = self.inter_feat[np.flatnonzero(first)]
        begins = np.maximum(starts[targets], targets - limit)
        lengths = torch.from_numpy(targets - begins)
        columns = {field: self.inter_feat[field] for field in self.inter_feat}
        values = {
            getattr(self, f"{field}_list_field"): column
            for field, column in columns.items()
            if field != self.uid_field
        }
        rows = {field: column[targets] for field, column in columns.items()}
        self.inter_feat = HistoryRows(
            rows | {self.item_list_length_field: lengths},
            Stretches(values, torch.from_numpy(begins), lengths, limit),
        )

    def with_first_items(self) -> HistoryDataset:
        """This training split with a row for every user's first item, too.

        The history of such a row is one item of padding: its lists hold zeros alone, and its
        length is 1. First items that are held out have none.
        """
        owners = self.first_rows[self.uid_field].numpy()
        first_rows = self.first_rows[np.flatnonzero(self.histories.training_lengths[owners] > 0)]
        ones = torch.ones(len(first_rows), dtype=torch.int64)
        columns = first_rows.interaction | {self.item_list_length_field: ones}
        extended: HistoryDataset = self.copy(self.inter_feat.with_rows(columns))
        return extended


def create_dataset(config: Any) -> Any:
    """The dataset class that `config`'s model needs, loaded.

    Raises
    ------
    DataError
        If files are missing or malformed, or lack item columns that the model reads.
    """
    with recbole_models.reading(config["dataset"]):
        dataset = _dataset_class(config)(config)
    wanted = config["selected_features"] or ()
    absent = [field for field in wanted if field not in dataset.field2type]
    if absent:
        raise DataError(
            f"Model '{config['model']}' reads the item columns {absent}, which are not loaded; "
            "name others with --selected_features and load them with --load_col."
        )
    return dataset


def _dataset_class(config: Any) -> type:
    special = getattr(recbole_datasets, f"{config['model']}Dataset", None)
    if special is not None:
        return type(f"Canonical{special.__name__}", (CanonicalMixin, special), {})
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return HistoryDataset
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        return GraphDataset
    return GeneralDataset
