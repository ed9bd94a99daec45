"""Files of a record: what they hold, and whether they are as they were written."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
from typing_extensions import NotRequired, TypedDict

from recbole_hellm.benchmark.record_ranks import read_record_ranks
from recbole_hellm.errors import RunError, reason
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.runs.directory import RunDirectory, RunRecord
from recbole_hellm.storage.json_files import fit, read_json
from recbole_hellm.storage.sealed_folders import RECORD
from recbole_hellm.storage.text_files import read_text

IDENTITY, ENVIRONMENT = "identity.json", "environment.json"
RANKS, SLICES, LISTS = "ranks.parquet", "slices.csv", "lists.json"
VALUES = "values.parquet"


class Metrics(RunRecord):
    """Content of ``metrics.json``."""

    recipe: str
    features: NotRequired[dict[str, str] | None]
    cost_with_stages: NotRequired[dict[str, float]]


class Environment(TypedDict):
    """Content of ``environment.json``."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    gpu: NotRequired[str | None]


class RecordDirectory(RunDirectory):
    """A record's folder. Every method raises :class:`RunError` for a damaged file."""

    @property
    def way_out(self) -> str:
        """How to get whole files again."""
        return f"restore the record, or take its folder out ({self.path}) and run `compare` again"

    def check(self) -> None:
        """Check all files that are listed."""
        for sentence in self.damages():
            raise RunError(sentence)

    def metrics(self) -> Metrics:
        """What the run came to."""
        metrics: Metrics = fit(
            self.read_record(), Metrics, self.file(RECORD), RunError, self.way_out
        )
        return metrics

    def environment(self) -> dict[str, Any]:
        """Where the run was made."""
        path = self.verified(ENVIRONMENT)
        content: dict[str, Any] = read_json(path, Environment, RunError, self.way_out)
        return content

    def lists(self) -> dict[str, float]:
        """Metrics of the recommended lists; empty where the lists were not kept."""
        if not self.holds(LISTS):
            return {}
        path = self.verified(LISTS)
        lists: dict[str, float] = read_json(path, dict[str, float], RunError, self.way_out)
        return lists

    def slices(self) -> pd.DataFrame:
        """Metrics by groups of users: masking, grouping, group, users, metric, value."""
        path = self.verified(SLICES)
        text = read_text(path, RunError, self.way_out)
        kinds = {"group": str, "users": np.int64, "value": np.float64}
        try:
            frame = pd.read_csv(io.StringIO(text), dtype=kinds)
        except (ValueError, OverflowError) as error:  # pandas' own are of the first kind
            raise RunError(f"{path} is damaged ({reason(error)}); {self.way_out}.") from error
        lacking = {"masking", "grouping", "metric", *kinds} - set(frame)
        if lacking:
            raise RunError(
                f"{path} is damaged (it has no column '{min(lacking)}'); {self.way_out}."
            )
        if bool(frame[sorted({"masking", "grouping", "metric", *kinds})].isna().any(axis=None)):
            raise RunError(f"{path} is damaged (a cell is empty); {self.way_out}.")
        return frame

    def user_values(self) -> pd.DataFrame:
        """Values of each user that ranks do not tell; empty where there are none."""
        if not self.holds(VALUES):
            return pd.DataFrame()
        return self.read_table(VALUES)


@dataclasses.dataclass(frozen=True)
class Record:
    """A kept record.

    Attributes
    ----------
    path : Path
    record : dict
        Content of ``metrics.json``.
    recipe : str
        Hash of what determines the result but for the data; the same on every machine.
    """

    path: Path
    record: dict[str, Any]
    recipe: str

    @property
    def seed(self) -> int:
        """The run's random seed."""
        return int(self.record["seed"])

    @functools.cached_property
    def directory(self) -> RecordDirectory:
        """Its files."""
        return RecordDirectory(self.path)

    @property
    def detailed(self) -> bool:
        """Whether per-user ranks and slices were kept."""
        return self.directory.holds(RANKS) and self.directory.holds(SLICES)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the result."""
        return self.directory.settings()

    def has(self, settings: Mapping[str, Any]) -> bool:
        """Whether it was made with these settings."""
        return all(self.settings.get(key) == value for key, value in settings.items())

    @functools.cached_property
    def hardware(self) -> str:
        """What it was trained on: the GPU's name, or ``CPU``."""
        return self.directory.environment().get("gpu") or "CPU"

    def metrics(self, masking: str, phase: str = "test") -> dict[str, float]:
        """Metrics of `phase` under a masking.

        Raises
        ------
        RunError
            If the run was not measured under it.
        """
        found: dict[str, float] | None = self.record[phase].get(masking)
        if found is None:
            raise RunError(
                f"{self.path}/{RECORD} has no {phase} metrics under mask_history={masking}; "
                f"{self.directory.way_out}."
            )
        return found

    def metric(self, name: str, masking: str, phase: str = "test") -> float:
        """One of these metrics.

        Raises
        ------
        RunError
            If the run was not measured by it.
        """
        metrics = self.metrics(masking, phase)
        if name not in metrics:
            raise RunError(
                f"{self.path}/{RECORD} has no {phase} metric {name} under mask_history={masking}; "
                f"{self.directory.way_out}."
            )
        return metrics[name]

    def ranks(self) -> dict[str, Ranks]:
        """Per-user ranks by masking, users in ascending order of their tokens.

        Raises
        ------
        RunError
            If there are none, or the file is damaged.
        """
        path, way_out = self.directory.verified(RANKS), self.directory.way_out
        ranks = read_record_ranks(path, way_out)
        for masking in self.record["test"]:
            if masking not in ranks or len(ranks[masking].user_ids) != self.record["users"]:
                raise RunError(
                    f"{path} is damaged (it does not hold the ranks of {self.record['users']} "
                    f"users under mask_history={masking}); {way_out}."
                )
        return ranks

    @functools.cached_property
    def user_values(self) -> dict[tuple[str, str], np.ndarray]:
        """Values of each user by masking and metric, users in ascending order of their tokens.

        Those of this package's rank metrics are not among them; :meth:`ranks` tells them.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        frame = self.directory.user_values()
        numeric = all(map(pd.api.types.is_numeric_dtype, frame.dtypes))
        if len(frame.columns) and not (numeric and len(frame) == self.record["users"]):
            raise RunError(
                f"{self.path / VALUES} is damaged (it does not hold a number for each of "
                f"{self.record['users']} users); {self.directory.way_out}."
            )
        columns = {str(name).partition("."): frame[name].to_numpy() for name in frame}
        return {(masking, metric): values for (masking, _, metric), values in columns.items()}

    def slices(self) -> pd.DataFrame:
        """Metrics by groups of users: masking, grouping, group, users, metric, value.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        return self.directory.slices()

    def lists(self) -> dict[str, float]:
        """Metrics of the recommended lists; empty where the lists were not kept.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        return self.directory.lists()
