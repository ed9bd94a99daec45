"""RecBole datasets in canonical order, with one split, a fingerprint and item features.

RecBole reads atomic files, filters and assigns ids; the classes here put the rows into canonical
order before ids exist, keep users with fewer than three interactions for training only, and prove
with a fingerprint that general and sequential models get the same validation and test items.
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
from recbole_hellm.data.interactions.histories import MIN_INTERACTIONS, Histories
from recbole_hellm.data.interactions.splits import (
    POSITION,
    candidate_fingerprint,
    canonical_order,
    histories_hash,
    split_fingerprint,
)
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
    """Whether each evaluated user's test item has the time of the one before, bool [E]."""
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
        self.histories = Histories.from_pairs(users, items, self.num(self.uid_field))
        # Times are exact here; RecBole makes them float32 next.
        times = self.inter_feat[self._ordered_by].to_numpy()[np.argsort(users, kind="stable")]
        last = self.histories.offsets[self.histories.evaluated_users + 1] - 1
        self.tied_tests = times[last] == times[last - 1]
        short = int(((self.histories.lengths > 0) & (self.histories.lengths < 3)).sum())
        if short:
            logger.warning(
                "%d users of '%s' have fewer than %d interactions; they are trained on and never "
                "evaluated.",
                short,
                self.dataset_name,
                MIN_INTERACTIONS,
            )
        if len(self.histories.evaluated_users) == 0:
            raise DataError(
                f"No user of '{self.dataset_name}' has {MIN_INTERACTIONS} interactions, so there "
                "is nothing to evaluate; use a larger dataset."
            )

    def _split_index_by_leave_one_out(
        self, grouped_index: Any, leave_one_num: int
    ) -> list[list[int]]:
        """Answers dataset.py:1654: a user with two interactions would get a test item."""
        rows = 1 if isinstance(self, SequentialDataset) else 0
        parts: list[list[int]] = [[] for _ in range(leave_one_num + 1)]
        for group in grouped_index:
            index = list(group)
            if len(index) + rows < MIN_INTERACTIONS:
                parts[0].extend(index)
                continue
            parts[0].extend(index[:-leave_one_num])
            for part, row in zip(parts[1:], index[-leave_one_num:], strict=True):
                part.append(row)
        return parts

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
        for phase, part in zip(("valid", "test"), datasets[1:], strict=True):
            users = part.inter_feat[self.uid_field].numpy()
            order = np.argsort(users)
            same = np.array_equal(users[order], self.histories.evaluated_users)
            items = part.inter_feat[self.iid_field].numpy()[order]
            if not same or not np.array_equal(items, self.histories.targets(phase)):
                raise DataError(f"The {phase} split is not the canonical leave-one-out split.")
        return datasets

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every evaluated user's validation and test item, by token."""
        users = self.id2token(self.uid_field, self.histories.evaluated_users)
        valid, test = (
            self.id2token(self.iid_field, self.histories.targets(phase))
            for phase in ("valid", "test")
        )
        return split_fingerprint(list(users), list(valid), list(test))

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
    first_rows : Interaction
        Every user's first interaction, which RecBole's rows lack, without a history.
    """

    first_rows: Interaction

    def data_augmentation(self) -> None:
        """RecBole's augmentation, row for row, vectorised.

        Answers sequential_dataset.py:108-147, whose Python loop over rows and fields takes most of
        the loading time. Row order, padding and lengths are the same.
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
        columns = torch.arange(limit)
        valid = columns < lengths[:, None]
        source = torch.where(valid, torch.from_numpy(begins)[:, None] + columns, 0)
        rows = self.inter_feat[targets]
        lists: dict[str, torch.Tensor] = {self.item_list_length_field: lengths}
        for field in self.inter_feat:
            if field != self.uid_field:
                values = self.inter_feat[field][source]
                shape = valid.shape + (1,) * (values.dim() - 2)
                zero = torch.zeros((), dtype=values.dtype)
                lists[getattr(self, f"{field}_list_field")] = torch.where(
                    valid.view(shape), values, zero
                )
        rows.update(Interaction(lists))
        self.inter_feat = rows

    def with_first_items(self) -> HistoryDataset:
        """This training split with a row for every user's first item, too.

        The history of such a row is one item of padding: its lists hold zeros alone, and its
        length is 1. A first item is never held out.
        """
        rows = self.inter_feat.interaction
        count = len(self.first_rows)
        added = {
            name: torch.zeros(count, *values.shape[1:], dtype=values.dtype)
            for name, values in rows.items()
        }
        added[self.item_list_length_field] += 1
        added |= self.first_rows.interaction
        columns = {name: torch.cat([values, added[name]]) for name, values in rows.items()}
        extended: HistoryDataset = self.copy(Interaction(columns))
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
