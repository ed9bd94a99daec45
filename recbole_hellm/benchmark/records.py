"""Records of runs for publication: settings, environment and results.

A record is a folder ``<records>/<dataset>/<model>/<id>/``:

- ``config.yaml``: the settings that determine the result;
- ``identity.json``: the stages' settings, the split, and hashes of data and features;
- ``environment.json``: versions, hardware, git commit;
- ``ranks.parquet``, ``slices.csv``, ``lists.json``: per-user ranks without tokens, metrics by
  groups of users, metrics of the recommended lists (for tables; a figure's points have none);
- ``metrics.json``: all metrics, masking policy and cost; written last.

A record holds no checkpoint, no user or item tokens, and no paths of the machine.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_hellm.benchmark.record_ranks import (
    compress_ranks,
    read_record_ranks,
    read_run_ranks,
    write_record_ranks,
)
from recbole_hellm.benchmark.users import TestUsers
from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.slices import metrics_by_slice
from recbole_hellm.runs.directory import RunDirectory, content_hash
from recbole_hellm.runs.identity import portable, recipe_of
from recbole_hellm.runs.results import RunResult

RANKS, SLICES, LISTS = "ranks.parquet", "slices.csv", "lists.json"
SLICED, SLICED_AT = ("recall", "ndcg"), (10, 20)


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of a run.

    Attributes
    ----------
    path : Path
    record : dict
        Content of ``metrics.json``.
    recipe : str
        Hash of all settings, without the data; equal on every machine.
    """

    path: Path
    record: dict[str, Any]
    recipe: str

    @property
    def seed(self) -> int:
        """The run's random seed."""
        return int(self.record["seed"])

    @property
    def detailed(self) -> bool:
        """Whether the record holds per-user ranks and slices."""
        return (self.path / RANKS).is_file() and (self.path / SLICES).is_file()

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the result."""
        return read_yaml(self.path / "config.yaml")

    def has(self, settings: Mapping[str, Any]) -> bool:
        """Whether the run was trained with these settings."""
        return all(self.settings.get(key) == value for key, value in settings.items())

    @functools.cached_property
    def hardware(self) -> str:
        """The hardware of the training: the GPU's name, or ``CPU``."""
        return RunDirectory(self.path).read_json("environment.json").get("gpu") or "CPU"

    def metrics(self, masking: str) -> dict[str, float]:
        """Test metrics under a masking."""
        return self.record["test"][masking]

    def ranks(self) -> dict[str, Ranks]:
        """Per-user ranks by masking, users in ascending order of their tokens.

        Raises
        ------
        RunError
            If the record has no ranks.
        """
        return read_record_ranks(self.path / RANKS)

    def slices(self) -> pd.DataFrame:
        """Metrics by groups of users: masking, grouping, group, users, metric, value.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        path = self.path / SLICES
        try:
            return pd.read_csv(path, dtype={"group": str})
        except ValueError as error:  # pandas' errors derive from it
            raise _damaged(path) from error

    def lists(self) -> dict[str, float]:
        """Metrics of the recommended lists; empty if the run saved no lists.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        path = self.path / LISTS
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise _damaged(path) from error


def _damaged(path: Path) -> RunError:
    return RunError(f"{path} is damaged; restore the record, or remove its folder.")


def write_record(
    run: RunResult, folder: Path, test_users: TestUsers, details: bool = True
) -> Record:
    """Write the record of a finished run.

    Parameters
    ----------
    run : RunResult
    folder : Path
        The folder of all records.
    test_users : TestUsers
        The run's test users.
    details : bool
        Whether to write ranks, slices and metrics of lists.

    Raises
    ------
    RunError
        If a file of the run is missing or damaged, or `test_users` belongs to other data.
    """
    source, record = RunDirectory(run.path), run.record
    test_users.check(record, run.path)
    identity = _portable(source.read_json("identity.json"))
    recipe = content_hash(recipe_of(identity))
    settings = identity.pop("settings")
    directory = RunDirectory(folder / record["dataset"] / record["model"] / run.path.name)
    directory.clear()
    directory.write_yaml("config.yaml", settings)
    directory.write_json("identity.json", identity)
    directory.write_json("environment.json", _without_paths(source.read_json("environment.json")))
    if details:
        _write_details(run, directory, test_users)
    stages = [stage.record["cost"] for stage in run.stages]
    cost = record["cost"]
    with_stages = {
        key: cost[key] + sum(stage[key] for stage in stages)
        for key in ("train_seconds", "train_cpu_seconds")
        if all(key in part for part in (cost, *stages)) and len(stages) == len(record["stages"])
    }
    metrics = record | {
        "recipe": recipe,
        "features": test_users.encoders if identity["features"] else None,
        "cost_with_stages": with_stages,
    }
    directory.write_json("metrics.json", metrics)
    return Record(directory.path, metrics, recipe)


def _portable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity, stages included, without folders of this machine."""
    if "settings" not in identity:
        return dict(identity)
    stages = {role: _portable(stage) for role, stage in identity["stages"].items()}
    settings = portable(identity["settings"])
    return dict(identity) | {"settings": settings, "stages": stages}


def _write_details(run: RunResult, directory: RunDirectory, test_users: TestUsers) -> None:
    ranks_by_masking = read_run_ranks(run.path)
    write_record_ranks(directory.file(RANKS), compress_ranks(ranks_by_masking))
    frames = [
        metrics_by_slice(ranks, test_users.slices, SLICED, SLICED_AT).assign(masking=masking)
        for masking, ranks in ranks_by_masking.items()
    ]
    directory.write_text(SLICES, pd.concat(frames).to_csv(index=False, float_format="%.8g"))
    lists = test_users.lists_of(run)
    if lists is not None:
        directory.write_json(LISTS, lists)


def read_records(
    folder: Path, dataset: str, test_users: TestUsers | None = None, detailed: bool = False
) -> dict[str, Record]:
    """Records of a dataset by recipe.

    Parameters
    ----------
    folder, dataset : Path, str
    test_users : TestUsers, optional
        Leave out records with other validation and test items, and records of models that read
        other item features.
    detailed : bool
        Leave out records without per-user ranks.

    Raises
    ------
    RunError
        If a record is damaged, or two records of one recipe have different data.
    """
    records: dict[str, Record] = {}
    for run in _records(folder / dataset):
        if detailed and not run.detailed:
            continue
        if test_users is not None:
            features = run.record.get("features")
            if run.record["split"] != test_users.split:
                continue
            if features and features != test_users.encoders:
                continue
        other = records.setdefault(run.recipe, run)
        for key in ("split", "candidates", "features"):
            # Earlier versions did not record the features of a figure's points.
            values = [record.record.get(key) for record in (other, run)]
            if all(values) and values[0] != values[1]:
                raise RunError(
                    f"{other.path} and {run.path} have the same settings and different data "
                    f"({key}); remove one of them."
                )
    return records


def _records(folder: Path) -> Iterator[Record]:
    for path in sorted(folder.glob("*/*/metrics.json")):
        if not path.with_name("identity.json").is_file():
            continue  # a record of another kind
        directory = RunDirectory(path.parent)
        try:
            record, identity = map(directory.read_json, ("metrics.json", "identity.json"))
            settings = read_yaml(path.with_name("config.yaml"))
            recipe = content_hash(recipe_of({**identity, "settings": settings}))
        except (ConfigError, RunError, KeyError, TypeError) as error:
            raise _damaged(path.parent) from error
        if "recipe" not in record:
            continue
        if recipe != record["recipe"]:
            raise RunError(
                f"{path.parent}/config.yaml or identity.json does not fit metrics.json beside it; "
                "remove the record or restore it."
            )
        yield Record(path.parent, record, recipe)


def _without_paths(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The environment, with folders of this machine removed from its command."""
    return dict(environment) | {"command": list(map(_without_folders, environment["command"]))}


def _without_folders(word: str) -> str:
    """``--key=name`` for ``--key=folder/name``."""
    key, equals, value = word.partition("=")
    if equals and key.startswith("-"):
        return f"{key}={_without_folders(value)}" if "/" in value else word
    return Path(word).name if "/" in word else word
