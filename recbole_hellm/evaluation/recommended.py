"""Recommended lists, and what is known of the items and users they are about."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.data.features.store import list_features
from recbole_hellm.data.interactions.atomic_files import atomic_settings
from recbole_hellm.data.interactions.target_rows import TargetRows
from recbole_hellm.errors import DataError
from recbole_hellm.evaluation.ranking import means_of_runs


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What is known of the items. Features and metadata are read when a metric first needs them.

    Attributes
    ----------
    counts : ndarray of int64, shape [N + 1]
        Training interactions by item id; that of padding, 0, is ignored.
    n_users : int
        Users of the training data.
    tokens : sequence of str, length N
        Item tokens; those of item i are at i - 1.
    tail_ratio : float, optional
        The tail: this share of the items, or the items with up to so many interactions; RecBole's
        .1 by default.
    """

    counts: np.ndarray
    n_users: int
    tokens: Any = ()
    tail_ratio: float | None = None
    read_features: Callable[[], np.ndarray | None] = lambda: None
    read_metadata: Callable[[], ItemMetadata] = lambda: ItemMetadata({}, {})

    @classmethod
    def of(cls, dataset: Any) -> Catalogue:
        """The items of a loaded dataset.

        Parameters
        ----------
        dataset : CanonicalMixin
        """
        config = dataset.config

        def read_metadata() -> ItemMetadata:
            folder = config.dataset_directory
            return ItemMetadata.read(folder, config["dataset"], atomic_settings(config))

        return cls(
            dataset.training_counts,
            len(dataset.user_tokens),
            dataset.item_tokens,
            config["tail_ratio"],
            functools.partial(_read_features, dataset),
            read_metadata,
        )

    @functools.cached_property
    def features(self) -> np.ndarray | None:
        """Item features, shape [N, D], row i - 1 being item i; None where there are none.

        The cosine of two rows is the mean over modalities.

        Raises
        ------
        DataError
            If they do not fit the items.
        """
        features, items = self.read_features(), len(self.counts) - 1
        if features is not None and len(features) != items:
            raise DataError(
                f"{len(features)} rows of features do not fit {items} items; make them again."
            )
        return features

    @functools.cached_property
    def metadata(self) -> ItemMetadata:
        """Titles and categories by item token; empty where the dataset has no item table."""
        return self.read_metadata()


@dataclasses.dataclass(frozen=True)
class RecommendedLists:
    """The recommended lists of evaluated users, one a ranking.

    Attributes
    ----------
    items : ndarray of int64, shape [U, K]
        Item ids from 1 to N, best first, each once in a row.
    histories : (rows, items)
        Training interactions of the U users; rows are ascending and numbered as in `items`.
    catalogue : Catalogue
    targets : ndarray of int64, shape [U], optional
        Each list's held-out item; None where a list has several.
    owners : ndarray of int64, shape [U], optional
        User id of each list, ascending; None where every user has one list.
    """

    items: np.ndarray
    histories: tuple[np.ndarray, np.ndarray]
    catalogue: Catalogue
    targets: np.ndarray | None = None
    owners: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        dataset: Any,
        catalogue: Catalogue,
        items: np.ndarray,
        users: np.ndarray,
        phase: str = "test",
        target_rows: TargetRows | None = None,
    ) -> RecommendedLists:
        """Lists of evaluated users of a dataset.

        Parameters
        ----------
        dataset : CanonicalMixin
        catalogue : Catalogue
        items : ndarray of int64, shape [U, K]
        users : ndarray of int64, shape [U]
            User ids; of several rows a user, those of all rows in order.
        phase : {"valid", "test"}
        target_rows : TargetRows, optional
            What the lists were made for, list by list; by default the dataset's rows of `users`.
        """
        rows = dataset.target_rows(phase)
        several = len(np.unique(users)) < len(users)
        if target_rows is not None:
            rows = target_rows
        elif not several:
            rows = rows.reordered(np.searchsorted(rows.users, users))
        targets = rows.items if len(rows.items) == len(rows) else None
        known = dataset.histories.training(users)
        return cls(items, known, catalogue, targets, users if several else None)

    def of_users(self, values: np.ndarray) -> np.ndarray:
        """Each user's mean of values of lists, [U]."""
        return values if self.owners is None else means_of_runs(values, self.owners)

    def top(self, k: int) -> RecommendedLists:
        """The first k items of each list."""
        return dataclasses.replace(self, items=self.items[:, :k])

    def rows(self, start: int, stop: int) -> RecommendedLists:
        """The lists from `start` to before `stop`, rows of histories numbered from 0."""
        rows, items = self.histories
        first, last = np.searchsorted(rows, [start, stop])
        return dataclasses.replace(
            self,
            items=self.items[start:stop],
            histories=(rows[first:last] - start, items[first:last]),
            targets=None if self.targets is None else self.targets[start:stop],
            owners=None if self.owners is None else self.owners[start:stop],
        )

    def check(self) -> None:
        """Check that the lists hold nothing but item ids.

        Raises
        ------
        DataError
            If they hold anything else.
        """
        count = len(self.catalogue.counts) - 1
        if self.items.size == 0 or self.items.min() < 1 or self.items.max() > count:
            raise DataError(f"Lists hold something other than the item ids 1 to {count}.")


def _read_features(dataset: Any) -> np.ndarray | None:
    config = dataset.config
    unnamed = config["features"] is None
    if all(info.on_request and unnamed for info in list_features(config.dataset_directory)):
        return None
    blocks = [feature.matrix for feature in dataset.item_features().values()]
    norms = [np.linalg.norm(block, axis=1, keepdims=True) for block in blocks]
    scaled = [
        block / np.where(norm > 0, norm, 1) for block, norm in zip(blocks, norms, strict=True)
    ]
    return np.hstack(scaled) / np.sqrt(len(scaled))
