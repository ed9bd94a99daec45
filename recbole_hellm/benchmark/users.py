"""The test users of a dataset, independent of any model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.config.resolution import HellmConfig, declared_facts
from recbole_hellm.data.features.store import list_features
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.beyond import beyond_accuracy
from recbole_hellm.evaluation.slices import UserSlices
from recbole_hellm.runs.opening import open_dataset
from recbole_hellm.runs.rankings import lists_file
from recbole_hellm.runs.results import RunResult

LIST_LENGTHS = (10, 20)


class TestUsers:
    """A dataset's test users, its items and their features, loaded once for many runs.

    Parameters
    ----------
    dataset : CanonicalMixin
        All interactions.
    """

    __test__ = False  # not a test class, despite its name

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    @classmethod
    def open(cls, config: HellmConfig, features: bool = False) -> TestUsers:
        """Load the dataset that a run's configuration names; prepare it first if needed.

        Parameters
        ----------
        config : HellmConfig
        features : bool
            Whether to load item features too, and to encode them if needed.
        """
        overrides = config.external_config_dict
        shared = {key: value for key, value in overrides.items() if declared_facts(key).passed_on}
        plain = HellmConfig("Pop", config["dataset"], shared)
        return cls(open_dataset(plain, features))

    def check(self, record: Mapping[str, Any], run: Path) -> None:
        """Refuse a run on other data.

        Raises
        ------
        RunError
            If its validation and test items, or its candidate items, differ from the dataset's.
        """
        for key, value in (("split", self.split), ("candidates", self.dataset.candidates_hash)):
            if record[key] != value:
                raise RunError(
                    f"{run} and the dataset in {self.dataset.config['data_path']} differ in {key}; "
                    "name the data that the run was trained on with --data_path."
                )

    @property
    def split(self) -> str:
        """The fingerprint of validation and test items."""
        return self.dataset.fingerprint

    @property
    def encoders(self) -> dict[str, str]:
        """The encoder of the item features by modality."""
        return {
            modality: feature.encoder for modality, feature in self.dataset.item_features().items()
        }

    @functools.cached_property
    def _content(self) -> np.ndarray | None:
        """Item features [N, D] whose cosine is the mean over modalities; None without features."""
        config = self.dataset.config
        if not list_features(config.dataset_directory):
            return None
        blocks = [feature.matrix for feature in self.dataset.item_features().values()]
        norms = [np.linalg.norm(block, axis=1, keepdims=True) for block in blocks]
        scaled = [
            block / np.where(norm > 0, norm, 1) for block, norm in zip(blocks, norms, strict=True)
        ]
        return np.hstack(scaled) / np.sqrt(len(scaled))

    @functools.cached_property
    def _user_tokens(self) -> np.ndarray:
        return self.dataset.user_tokens[self.dataset.histories.evaluated_users - 1]

    @functools.cached_property
    def slices(self) -> UserSlices:
        """Groups of the test users in ascending order of their tokens."""
        return UserSlices.from_dataset(self.dataset).in_token_order(self._user_tokens)

    def lists_of(self, run: RunResult) -> dict[str, float] | None:
        """Beyond-accuracy metrics of a run's lists; None if the lists are missing or too short.

        The lists are those of the test split under the run's masking (``save_topk``).
        """
        path = run.path / lists_file(run.record["masking"])
        if not path.is_file():
            return None
        frame = pd.read_parquet(path).sort_values(["user", "place"], kind="stable")
        ids = frame["item"].map(self.dataset.field2token_id[self.dataset.iid_field])
        lists = ids.to_numpy(dtype=np.int64, copy=True).reshape(frame["user"].nunique(), -1)
        ranked = pd.read_parquet(run.path / f"ranks-{run.record['masking']}.parquet")["candidates"]
        # A list that is longer than the number of ranked items ends with masked items.
        longest = min(lists.shape[1], int(ranked.min()))
        lengths = [k for k in LIST_LENGTHS if k <= longest]
        if not lengths:
            return None
        users = frame["user"].drop_duplicates()
        user_ids = self.dataset.field2token_id[self.dataset.uid_field]
        histories = self.dataset.histories
        training = histories.training(users.map(user_ids).to_numpy(dtype=np.int64))
        return beyond_accuracy(
            lists[:, : max(lengths)],
            self.dataset.training_counts,
            len(self.dataset.user_tokens),
            training,
            self._content,
            topk=lengths,
        )
