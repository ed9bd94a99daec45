"""What trackers are told of a run: its name, its settings and its results."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.yaml_files import with_lists
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.tracking.tracker import TrackedRun
from recbole_hellm.tracking.tracking import Tracking

NAME_FILE = "tracking.json"
"""File of a run directory with the name of its training, by which trackers know it again."""


def training_name(directory: RunDirectory) -> str | None:
    """The name of the training in a run directory, if it has one."""
    if not directory.file(NAME_FILE).is_file():
        return None
    return str(directory.read_json(NAME_FILE).get("training") or "") or None


def begin(
    tracking: Tracking,
    config: Any,
    directory: RunDirectory,
    stages: Mapping[str, str],
    curves: Mapping[int, Mapping[str, float]],
    training: str | None = None,
) -> None:
    """Start the trackers of a run.

    Parameters
    ----------
    tracking : Tracking
    config : HellmConfig
    directory : RunDirectory
        Gets a file with the training's name, by which MLflow and others know it again.
    stages : Mapping of str to str
        Run directories of the stages, by role.
    curves : Mapping
        Values by name of each epoch before a resumed one.
    training : str, optional
        The name of the training, if it goes on.
    """
    if not tracking.names:
        return
    name = training or secrets.token_hex(8)
    if set(tracking.names) != {"tensorboard"}:
        directory.write_json(NAME_FILE, {"training": name})
    run = TrackedRun(
        model=config["model"],
        dataset=config["dataset"],
        id=directory.path.name,
        directory=directory.path,
        training=name,
        resumed=training is not None,
        options=config.final_config_dict,
    )
    tracking.start(run, shown_settings(config, stages, tracking.searched), curves)


def shown_settings(
    config: Any, stages: Mapping[str, str], searched: Mapping[str, Any]
) -> dict[str, Any]:
    """A run's settings, the runs it builds on, and what a trial of ``tune`` tries.

    Parameters
    ----------
    config : HellmConfig
    stages : Mapping of str to str
        Run directories of the stages, by role.
    searched : Mapping
    """
    declared = RunSettings.declarations()
    settings = {key: config[key] for key in declared if declared[key].facts.shown}
    settings |= config.model_settings()
    runs = {f"{role}_stage": "/".join(Path(path).parts[-2:]) for role, path in stages.items()}
    trial = {"searched": " ".join(f"{key}={searched[key]}" for key in searched)} if searched else {}
    names = {"model": config["model"], "dataset": config["dataset"]}
    return {key: with_lists(value) for key, value in (names | settings | runs | trial).items()}


def results_of(record: Mapping[str, Any], valid_metric: str) -> dict[str, float]:
    """The results of a finished run, by name.

    Parameters
    ----------
    record : Mapping
        The content of ``metrics.json``.
    valid_metric : str
        The metric that selects the epoch.
    """
    run_masking, metric = record["masking"], valid_metric.lower()
    results = {
        f"test-{masking}/{name}": value
        for masking, metrics in record["test"].items()
        for name, value in metrics.items()
    }
    results |= {
        "best/epoch": record["best_epoch"],
        f"best/test-{metric}": record["test"][run_masking][metric],
        f"best/valid-{metric}": record["valid"][run_masking][metric],
    }
    return results | {f"cost-of-run/{name}": value for name, value in record["cost"].items()}


def validation_of(trainer: Any, valid_metric: str) -> dict[str, float]:
    """What a training came to whose test split is not scored; names as in :func:`results_of`."""
    return {
        "best/epoch": trainer.best_epoch + 1,
        f"best/valid-{valid_metric.lower()}": float(trainer.best_valid_score),
    }
