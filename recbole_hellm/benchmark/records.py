"""Records of runs that can be published: what was run, where, and what came of it.

A record is a folder ``<records>/<dataset>/<model>/<id>/``:

- ``config.yaml``: the settings that determine the result;
- ``identity.json``: those of the stages, the split and hashes of data and features;
- ``environment.json``: versions, hardware, git commit;
- ``ranks.parquet``, ``slices.csv``, ``lists.json``: per-user ranks without tokens, metrics by
  groups of users, metrics of the recommended lists (for tables; a figure's points have none);
- ``values.parquet``: per-user values of metrics that ranks do not tell, if any were asked for;
- ``metrics.json``: all metrics, masking policy and cost, and the checksums of all files.

It holds no checkpoint, no token of a user or an item, and no path of the machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.benchmark.record_files import (
    ENVIRONMENT,
    IDENTITY,
    LISTS,
    RANKS,
    SLICES,
    VALUES,
    Record,
    RecordDirectory,
)
from recbole_hellm.benchmark.record_ranks import (
    compress_ranks,
    read_run_ranks,
    write_record_ranks,
)
from recbole_hellm.benchmark.users import TestUsers
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.list_metrics import LIST_METRICS
from recbole_hellm.evaluation.metric import RankMetric
from recbole_hellm.evaluation.metrics import BUILT_IN, MetricSet
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.recommended import RecommendedLists
from recbole_hellm.evaluation.slices import means_by_slice, metrics_by_slice
from recbole_hellm.runs.directory import CONFIG, RunDirectory
from recbole_hellm.runs.identity import portable, recipe_of
from recbole_hellm.runs.results import RunResult
from recbole_hellm.storage.checksums import content_hash
from recbole_hellm.storage.files import atomic_folder, settle_folders, writing
from recbole_hellm.storage.locks import locked

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait for another process that writes a record."""
LOCK = ".lock"
"""File in a model's folder of records while a process writes there, or after one was killed."""

SLICED = MetricSet.of(("recall", "ndcg"), (10, 20))
"""Metrics that every record has by groups of users."""
LISTED = MetricSet(LIST_METRICS, (10, 20))
"""Metrics of lists that every record has, if lists of that length were kept."""


def write_record(
    run: RunResult,
    folder: Path,
    test_users: TestUsers,
    details: bool = True,
    asked: MetricSet = MetricSet(),  # noqa: B008 (immutable)
) -> Record:
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
    asked : MetricSet
        Metrics to be kept by user, by groups of users and of lists beside those that every record
        has.

    Raises
    ------
    RunError
        If a file of the run is missing or damaged, or `test_users` are of other data.
    """
    source, record = RunDirectory(run.path), run.record
    test_users.check(record, run.path)
    identity = _portable(source.read_json("identity.json"))
    recipe = content_hash(recipe_of(identity))
    settings = identity.pop("settings")
    whole = (run, *run.all_stages)
    costs = [one.record["cost"] for one in whole]
    all_there = all(len(one.stages) == len(one.record["stages"]) for one in whole)
    with_stages = {
        key: sum(cost[key] for cost in costs)
        for key in ("train_seconds", "train_cpu_seconds")
        if all_there and all(key in cost for cost in costs)
    }
    metrics = record | {
        "recipe": recipe,
        "features": test_users.encoders if identity["features"] else None,
        "cost_with_stages": with_stages,
    }
    path = folder / record["dataset"] / record["model"] / run.path.name
    with _writing_into(path.parent), atomic_folder(path) as temporary:
        directory = RecordDirectory(temporary)
        directory.write_yaml(CONFIG, settings)
        directory.write_json(IDENTITY, identity)
        directory.write_json(ENVIRONMENT, _without_paths(source.read_json(ENVIRONMENT)))
        if details:
            _write_details(run, directory, test_users, asked)
        directory.write_record(metrics)
    return Record(path, metrics, recipe)


@contextlib.contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    """Keep other processes out of a model's records; finish what killed ones left there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    busy = RunError(
        f"{folder} has been in use by another process for {PATIENCE:.0f} seconds; end that "
        "process, and give the same command again."
    )
    with locked(folder / LOCK, busy, PATIENCE):
        settle_folders(folder)
        yield


def _portable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without the machine's folders, in the settings of its stages too."""
    if "settings" not in identity:
        return dict(identity)
    stages = {role: _portable(stage) for role, stage in identity["stages"].items()}
    settings = portable(identity["settings"])
    return dict(identity) | {"settings": settings, "stages": stages}


def _write_details(
    run: RunResult, kept: RunDirectory, test_users: TestUsers, asked: MetricSet
) -> None:
    ranks_by_masking = read_run_ranks(run.path)
    for masking in run.record["test"]:
        ranks = ranks_by_masking.get(masking)
        if ranks is None or len(ranks.user_ids) != run.record["users"]:
            raise RunError(
                f"{run.path} does not hold the ranks of {run.record['users']} users under "
                f"mask_history={masking}; {RunDirectory(run.path).way_out}."
            )
    write_record_ranks(kept.file(RANKS), compress_ranks(ranks_by_masking))
    lists, run_masking = test_users.lists_of(run), run.record["masking"]
    frames: list[pd.DataFrame] = []
    columns: dict[str, np.ndarray] = {}
    for masking, ranks in ranks_by_masking.items():
        values = _asked_values(asked, ranks, lists if masking == run_masking else None)
        further = {key: values[key] for key in values if key not in SLICED.measures}
        frames.append(metrics_by_slice(ranks, test_users.slices, SLICED).assign(masking=masking))
        if further:
            frames.append(means_by_slice(further, test_users.slices).assign(masking=masking))
        columns |= {
            f"{masking}.{key}": of_users
            for key, of_users in further.items()
            if not isinstance(BUILT_IN.get(key.partition("@")[0]), RankMetric)
        }
    kept.write_text(SLICES, pd.concat(frames).to_csv(index=False, float_format="%.8g"))
    if columns:
        kept.write_table(VALUES, pd.DataFrame(columns), compression="zstd")
    described = {} if lists is None else _described(lists, asked)
    if described:
        kept.write_json(LISTS, described)


def _asked_values(
    asked: MetricSet, ranks: Ranks, lists: RecommendedLists | None
) -> dict[str, np.ndarray]:
    """Values of each user; metrics of longer lists than were kept are left out."""
    length = 0 if lists is None else lists.items.shape[1]
    return asked.per_user(ranks) | asked.up_to(length).per_user(lists=lists)


def _described(lists: RecommendedLists, asked: MetricSet) -> dict[str, float]:
    """What the lists are like; empty where they are shorter than any k."""
    length = lists.items.shape[1]
    metrics = {metric.name: metric for metric in (*LISTED.metrics, *asked.listed.metrics)}
    wanted = MetricSet(tuple(metrics.values()), LISTED.topk).up_to(length)
    if wanted.topk:
        lists.check()
    return wanted.of_lists(lists)


def read_records(
    folder: Path, dataset: str, test_users: TestUsers | None = None, detailed: bool = False
) -> dict[str, Record]:
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
    by_recipe: dict[str, Record] = {}
    for run in _records(folder / dataset):
        if detailed and not run.detailed:
            continue
        if test_users is not None:
            fed = run.record.get("features")
            if run.record["split"] != test_users.split or (fed and fed != test_users.encoders):
                continue
        other = by_recipe.setdefault(run.recipe, run)
        for key in ("split", "candidates", "features"):
            # A point of a figure that an earlier version kept does not tell its features.
            first, second = (one.record.get(key) for one in (other, run))
            if first and second and first != second:
                raise RunError(
                    f"{other.path} and {run.path} have the same settings and different data "
                    f"({key}); take one of them out."
                )
    return by_recipe


def _records(folder: Path) -> Iterator[Record]:
    for model in sorted(path for path in folder.glob("*") if path.is_dir()):
        killed = [*model.glob(".*.old"), *model.glob(LOCK)]  # or one that is at work now
        if killed and os.access(model, os.W_OK):
            with _writing_into(model):
                pass
        for path in sorted(path for path in model.glob("*") if path.is_dir()):
            record = None if path.name.startswith(".") else _record(RecordDirectory(path))
            if record is not None:
                yield record


def _record(directory: RecordDirectory) -> Record | None:
    """The record in a folder; None where something else is in it."""
    path = directory.path
    described = directory.file(IDENTITY).is_file()
    if not directory.has_record:
        if described:
            logger.warning("%s is left out: it has no metrics.json.", path)
        return None
    directory.check()
    if "recipe" not in directory.read_record():
        if described:
            logger.warning("%s is left out: it is no record, perhaps a run.", path)
        return None
    metrics, identity = directory.metrics(), directory.read_json(IDENTITY)
    try:
        recipe = content_hash(recipe_of({**identity, "settings": directory.settings()}))
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise RunError(
            f"{directory.file(IDENTITY)} is damaged ({type(error).__name__}: {error}); "
            f"{directory.way_out}."
        ) from error
    if recipe != metrics["recipe"]:
        raise RunError(
            f"{path}/config.yaml or identity.json does not fit metrics.json beside it; "
            "they were changed by hand, so take the record out or restore it."
        )
    if (metrics["model"], metrics["dataset"]) != (path.parent.name, path.parents[1].name):
        raise RunError(
            f"{path} holds a record of {metrics['model']} on {metrics['dataset']}; move it to "
            f"{path.parents[2] / metrics['dataset'] / metrics['model']}."
        )
    return Record(path, dict(metrics), recipe)


def _without_paths(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The environment, with nothing of the machine's folders in its command."""
    return dict(environment) | {"command": list(map(_without_folders, environment["command"]))}


def _without_folders(word: str) -> str:
    """``--key=name`` for ``--key=folder/name``."""
    key, equals, value = word.partition("=")
    if equals and key.startswith("-"):
        return f"{key}={_without_folders(value)}" if "/" in value else word
    return Path(word).name if "/" in word else word
