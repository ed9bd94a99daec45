"""Records of runs that can be published: what was run, where, and what came of it.

A record is a folder ``<records>/<dataset>/<model>/<id>/``:

- ``config.yaml``: the settings that determine the result;
- ``identity.json``: those of the stages, the split and hashes of data and features;
- ``environment.json``: versions, hardware, git commit;
- ``ranks.parquet``, ``slices.csv``, ``lists.json``: per-user ranks without tokens, metrics by
  groups of users, metrics of the recommended lists (for tables; a figure's points have none);
- ``metrics.json``: all metrics, masking policy and cost; written last.

It holds no checkpoint, no token of a user or an item, and no path of the machine.
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
    read_kept_ranks,
    read_run_ranks,
    write_kept_ranks,
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
class KeptRun:
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

    @property
    def detailed(self) -> bool:
        """Whether per-user ranks and slices were kept."""
        return (self.path / RANKS).is_file() and (self.path / SLICES).is_file()

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the result."""
        return read_yaml(self.path / "config.yaml")

    def has(self, settings: Mapping[str, Any]) -> bool:
        """Whether it was made with these settings."""
        return all(self.settings.get(key) == value for key, value in settings.items())

    @functools.cached_property
    def hardware(self) -> str:
        """What it was trained on: the GPU's name, or ``CPU``."""
        return RunDirectory(self.path).read_json("environment.json").get("gpu") or "CPU"

    def metrics(self, masking: str) -> dict[str, float]:
        """Test metrics under a masking."""
        return self.record["test"][masking]

    def ranks(self) -> dict[str, Ranks]:
        """Per-user ranks by masking, users in ascending order of their tokens.

        Raises
        ------
        RunError
            If there are none.
        """
        return read_kept_ranks(self.path / RANKS)

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
        except ValueError as error:  # pandas' own are of that kind
            raise _damaged(path) from error

    def lists(self) -> dict[str, float]:
        """Metrics of the recommended lists; empty where the lists were not kept.

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
    return RunError(f"{path} is damaged; restore the record, or take its folder out.")


def keep(run: RunResult, folder: Path, test_users: TestUsers, details: bool = True) -> KeptRun:
    """Write the record of a finished run.

    Parameters
    ----------
    run : RunResult
    folder : Path
        Of all records.
    test_users : TestUsers
        The run's test users.
    details : bool
        Keep ranks, slices and metrics of lists.

    Raises
    ------
    RunError
        If a file of the run is missing or damaged, or the test_users is of other data.
    """
    source, record = RunDirectory(run.path), run.record
    test_users.check(record, run.path)
    identity = _portable(source.read_json("identity.json"))
    recipe = content_hash(recipe_of(identity))
    settings = identity.pop("settings")
    kept = RunDirectory(folder / record["dataset"] / record["model"] / run.path.name)
    kept.clear()
    kept.write_yaml("config.yaml", settings)
    kept.write_json("identity.json", identity)
    kept.write_json("environment.json", _without_paths(source.read_json("environment.json")))
    if details:
        _keep_details(run, kept, test_users)
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
    kept.write_json("metrics.json", metrics)
    return KeptRun(kept.path, metrics, recipe)


def _portable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without the machine's folders, in the settings of its stages too."""
    if "settings" not in identity:
        return dict(identity)
    stages = {role: _portable(stage) for role, stage in identity["stages"].items()}
    settings = portable(identity["settings"])
    return dict(identity) | {"settings": settings, "stages": stages}


def _keep_details(run: RunResult, kept: RunDirectory, test_users: TestUsers) -> None:
    ranks = read_run_ranks(run.path)
    write_kept_ranks(kept.file(RANKS), compress_ranks(ranks))
    frames = [
        metrics_by_slice(found, test_users.slices, SLICED, SLICED_AT).assign(masking=masking)
        for masking, found in ranks.items()
    ]
    kept.write_text(SLICES, pd.concat(frames).to_csv(index=False, float_format="%.8g"))
    lists = test_users.lists_of(run)
    if lists is not None:
        kept.write_json(LISTS, lists)


def read_kept(
    folder: Path, dataset: str, test_users: TestUsers | None = None, detailed: bool = False
) -> dict[str, KeptRun]:
    """Kept records of a dataset by recipe.

    Parameters
    ----------
    folder, dataset : Path, str
    test_users : TestUsers, optional
        Leave out records of other validation and test items, and of models that were given other
        item features.
    detailed : bool
        Leave out records without per-user ranks.

    Raises
    ------
    RunError
        If a record is damaged, or two of one recipe are of different data.
    """
    found: dict[str, KeptRun] = {}
    for run in _records(folder / dataset):
        if detailed and not run.detailed:
            continue
        if test_users is not None:
            fed = run.record.get("features")
            if run.record["split"] != test_users.split or (fed and fed != test_users.encoders):
                continue
        other = found.setdefault(run.recipe, run)
        for key in ("split", "candidates", "features"):
            # A point of a figure that an earlier version kept does not tell its features.
            told = [one.record.get(key) for one in (other, run)]
            if all(told) and told[0] != told[1]:
                raise RunError(
                    f"{other.path} and {run.path} are of the same settings and of different data "
                    f"({key}); take one of them out."
                )
    return found


def _records(folder: Path) -> Iterator[KeptRun]:
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
                "they were changed by hand, so take the record out or restore it."
            )
        yield KeptRun(path.parent, record, recipe)


def _without_paths(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The environment, with nothing of the machine's folders in its command."""
    return dict(environment) | {"command": list(map(_without_folders, environment["command"]))}


def _without_folders(word: str) -> str:
    """``--key=name`` for ``--key=folder/name``."""
    key, equals, value = word.partition("=")
    if equals and key.startswith("-"):
        return f"{key}={_without_folders(value)}" if "/" in value else word
    return Path(word).name if "/" in word else word
