"""The test users of a dataset: who they are apart from what any model does for them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_hellm.config.resolution import HellmConfig, declared_facts
from recbole_hellm.config.split_settings import described, protocol
from recbole_hellm.data.interactions.splits import token_order
from recbole_hellm.data.interactions.target_rows import TargetRows
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.recommended import Catalogue, RecommendedLists
from recbole_hellm.evaluation.slices import UserSlices
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.opening import open_dataset
from recbole_hellm.runs.rankings import lists_file, ranks_file
from recbole_hellm.runs.results import RunResult


class TestUsers:
    """A dataset's test users, its items and their features, loaded once for many runs.

    Parameters
    ----------
    dataset : CanonicalMixin
        All interactions.
    """

    __test__ = False  # no test, whatever pytest reads from the name

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    @classmethod
    def open(cls, config: HellmConfig, features: bool = False) -> TestUsers:
        """Load the dataset that a run's configuration names, prepared where it is not.

        Parameters
        ----------
        config : HellmConfig
        features : bool
            Whether item features are wanted, and made where there are none.
        """
        overrides = config.external_config_dict
        shared = {key: value for key, value in overrides.items() if declared_facts(key).passed_on}
        plain = HellmConfig("Pop", config["dataset"], shared)
        return cls(open_dataset(plain, features))

    def check(self, record: Mapping[str, Any], run: Path) -> None:
        """Refuse a run that was made on other data.

        Raises
        ------
        RunError
            If its protocol, validation and test items or candidate items are not these.
        """
        own = protocol(self.dataset.config)
        if record.get("protocol", {}) != own:
            raise RunError(
                f"{run} was measured under another protocol ({described(record) or 'the default'}) "
                f"than is asked for ({described({'protocol': own}) or 'the default'}); name the "
                "same split and candidates."
            )
        for key, value in (("split", self.split), ("candidates", self.dataset.candidates_hash)):
            if record[key] != value:
                folder = self.dataset.config.dataset_directory
                raise RunError(
                    f"{run} and the dataset in {folder} differ in {key}; name the data that it was "
                    "trained on with --data_path."
                )

    @property
    def split(self) -> str:
        """The fingerprint of validation and test items."""
        return self.dataset.fingerprint

    @property
    def encoders(self) -> dict[str, str]:
        """What made the item features that models are given, by modality."""
        return {
            modality: feature.encoder for modality, feature in self.dataset.item_features().items()
        }

    @functools.cached_property
    def _catalogue(self) -> Catalogue:
        return Catalogue.of(self.dataset)

    @functools.cached_property
    def _user_tokens(self) -> np.ndarray:
        return self.dataset.user_tokens[self.dataset.histories.evaluated("test") - 1]

    @functools.cached_property
    def slices(self) -> UserSlices:
        """Groups of the test users in ascending order of their tokens."""
        return UserSlices.from_dataset(self.dataset).in_token_order(self._user_tokens)

    def lists_of(self, run: RunResult) -> RecommendedLists | None:
        """A run's test lists under its masking; None where it kept none (``save_topk``).

        Users are in ascending order of their tokens, and the lists of one in their own order. A
        list ends where a user has no more candidates.

        Raises
        ------
        RunError
            If a file of the run is damaged.
        """
        directory, masking = RunDirectory(run.path), run.record["masking"]
        if not directory.holds(lists_file(masking)):
            return None
        path = directory.file(lists_file(masking))
        frame = directory.read_table(path.name)
        keys = [key for key in ("user", "row") if key in frame]
        frame = frame.sort_values([*keys, "place"], kind="stable")
        ids = frame["item"].map(self.dataset.field2token_id[self.dataset.iid_field])
        owners = frame[keys].drop_duplicates()
        user_ids = owners["user"].map(self.dataset.field2token_id[self.dataset.uid_field])
        rows = self._rows_of(run)
        uneven = frame.groupby(keys).size().nunique() != 1 or len(owners) != len(rows)
        if uneven or ids.isna().any() or user_ids.isna().any():
            raise RunError(
                f"{path} is damaged (its lists are not of the test users and items); "
                f"{directory.way_out}."
            )
        items = ids.to_numpy(dtype=np.int64, copy=True).reshape(len(owners), -1)
        ranked = directory.read_table(ranks_file(masking), ["candidates"])["candidates"]
        # A list that is longer than what was ranked ends with items that were masked.
        longest = min(items.shape[1], int(ranked.min()))
        users = user_ids.to_numpy(dtype=np.int64)
        return RecommendedLists.of(
            self.dataset, self._catalogue, items[:, :longest], users, target_rows=rows
        )

    def _rows_of(self, run: RunResult) -> TargetRows:
        """The rows that a run was evaluated on, in ascending order of their users' tokens."""
        rows = self.dataset.target_rows("test", run.record.get("held_out", {}).get("rows"))
        tokens = self.dataset.field2id_token[self.dataset.uid_field][rows.users]
        return rows.reordered(token_order(tokens))
