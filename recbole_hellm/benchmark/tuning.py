"""Hyper-parameter search on the validation split; the test split is never scored.

Trials are ordinary runs that stop before the test. A later `run` with the best settings and
``--resume`` reuses the training and scores the test split once.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recbole_hellm import registry
from recbole_hellm.benchmark.studies import (
    check_writable,
    database_errors,
    open_storage,
    require_optuna,
)
from recbole_hellm.benchmark.users import TestUsers
from recbole_hellm.config.resolution import HellmConfig, check_addressed
from recbole_hellm.config.settings import Settings, setting
from recbole_hellm.config.yaml_files import as_paths, packaged, read_yaml
from recbole_hellm.errors import BusyError, ConfigError, HellmError, RunError
from recbole_hellm.runs.identity import recipe
from recbole_hellm.runs.running import Validation, validate
from recbole_hellm.storage.checksums import content_hash
from recbole_hellm.storage.files import write_text

logger = logging.getLogger(__name__)

PAPER = "paper"  # names the grid of the model's own paper


class TuningSettings(Settings):
    """Size, space and storage of a search."""

    trials: int = setting(
        12, "Total trials of the study, including those of other processes.", ge=1
    )
    space: str | None = setting(
        None,
        "File of key: [values] lines, or paper for the grid of the model's own paper; "
        "properties/search/<Model>.yaml otherwise.",
    )
    studies_dir: str = setting(
        "studies", "Folder of the studies' results: <dataset>/<Model>.csv and .yaml."
    )
    storage: str | None = setting(
        None,
        "Where processes and machines share trials: a journal file, or the URL of a database "
        "(sqlite:///studies.db, postgresql://...).",
    )
    startup: int = setting(
        5, "Trials drawn at random before the sampler (TPE) learns from them.", ge=0
    )
    warmup: int = setting(8, "Epochs that a trial trains before it can be pruned.", ge=0)


@dataclasses.dataclass(frozen=True)
class Study:
    """A finished search.

    Attributes
    ----------
    trials : DataFrame
        One row per trial: the searched keys, ``score`` (the best validation score), ``state``
        (complete, pruned or unfinished), ``best_epoch``, ``epochs``, ``seconds``.
    best : dict
        The best complete trial's values of the searched keys.
    path : Path
        YAML file of `best`, which ``run --config`` takes.
    """

    trials: pd.DataFrame
    best: dict[str, Any]
    path: Path


def search_space(model: str, file: str | None = None) -> dict[str, list[Any]]:
    """Values to try, by key.

    Raises
    ------
    ConfigError
        If the model has no search space, or it is malformed or names a value or key twice.
    """
    name = f"{registry.base_model(model)}.yaml"
    presets = {None: ("search", name), PAPER: ("search", PAPER, name)}
    space = packaged(*presets[file]) if file in presets else read_yaml(Path(str(file)))
    if not space:
        kind = "grid of the paper" if file == PAPER else "search space"
        raise ConfigError(
            f"There is no packaged {kind} for '{model}'; write one (`key: [values]` lines) and "
            "name it with --space=FILE.yaml."
        )
    lead = f"Search space of '{model}'" + ("" if file in presets else f" ({file})")
    for key, values in space.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{lead}: {key} must be a list of values to try, not {values!r}.")
        repeated = [value for n, value in enumerate(values) if value in values[:n]]
        if repeated:
            raise ConfigError(f"{lead}: {key} repeats {repeated[0]!r}; name each value once.")
        plain = key.removeprefix(f"{registry.class_name(model)}.")
        if plain != key and plain in space:
            raise ConfigError(f"{lead}: {key} and {plain} are the same; keep one of them.")
    return space


def _check_searched(
    model: str, space: Mapping[str, Any], overrides: Mapping[str, Any], files: Iterable[Path]
) -> None:
    """Refuse settings that would override searched values.

    A plain key in a file is allowed: it is a default, which searched values replace.
    """
    lead = f"{registry.class_name(model)}."
    searched = {key.removeprefix(lead) for key in space}
    settings = [(key, f"--{key}") for key in overrides]
    for file in files:
        settings += [(key, f"{key} in {file}") for key in read_yaml(file) if key.startswith(lead)]
    for key, source in settings:
        plain = key.removeprefix(lead)
        if plain in searched:
            raise ConfigError(
                f"{plain} is both searched and set ({source}); remove it from one of the two."
            )


def tune(
    model: str,
    dataset: str,
    settings: TuningSettings,
    overrides: Mapping[str, Any],
    config_files: Iterable[Path] = (),
) -> Study:
    """Search a model's settings by its validation metric.

    Several processes, also on several machines, may work on one study at a time: they share its
    storage. Another space, other shared settings or other interactions make another study in
    the same storage; the table ``<Model>.csv`` has the trials of all of the model's studies on the
    dataset. Item features do not count, since their last bits differ between machines.
    The model's defaults are tried first where the space holds them.

    Parameters
    ----------
    model, dataset : str
    settings : TuningSettings
    overrides : Mapping
        Settings that all trials share.
    config_files : iterable of path
        Files of such settings.

    Raises
    ------
    ConfigError
        If a value of the space does not fit its key, a searched key is also set, an override
        addresses a model that is not run, a folder is not writable, or Optuna is not installed.
    """
    optuna = require_optuna()
    space, files = search_space(model, settings.space), as_paths(config_files)
    _check_searched(model, space, overrides, files)
    # Check every value before the first trial trains.
    base = HellmConfig(model, dataset, overrides, files)
    points = [{key: value} for key, values in space.items() for value in values]
    check_addressed(
        [base, *(HellmConfig(model, dataset, {**overrides, **point}, files) for point in points)]
    )
    folder = Path(settings.studies_dir) / dataset
    try:
        check_writable(folder)
    except OSError as error:
        raise ConfigError(
            f"studies_dir={settings.studies_dir} cannot be written ({error.strerror}: {folder}); "
            "name another folder."
        ) from error
    location = settings.storage or str(folder / f"{base.model}.journal")
    storage = open_storage(location)
    data = TestUsers.open(base)
    about = {
        "space": space,
        "shared": _shared(base, space),
        "content": data.dataset.interactions_hash,
    }
    if base.entry.outside:  # files are named by its class, which others may have, too
        about["model"] = base.entry.path
    name = content_hash(about)
    # A storage that the user names may hold studies of other models too.
    lead = "" if settings.storage is None else f"{dataset}/{base.model}/"
    with database_errors(location):
        study = optuna.create_study(
            storage=storage,
            study_name=lead + name,
            sampler=optuna.samplers.TPESampler(
                seed=base["seed"], n_startup_trials=settings.startup, constant_liar=True
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=settings.warmup),
            direction="maximize" if base["valid_metric_bigger"] else "minimize",
            load_if_exists=True,
        )
        defaults = {key: base[key] for key, values in space.items() if base[key] in values}
        if len(defaults) == len(space):
            study.enqueue_trial(defaults, skip_if_exists=True)

        def train(values: Mapping[str, Any], report: Callable[[int, float], None]) -> Validation:
            given = {**overrides, **values, "resume": True}
            return validate(HellmConfig(model, dataset, given, files), report, values)

        def write() -> Study:
            return _write(study, storage, folder, base.model, lead)

        target = min(settings.trials, math.prod(map(len, space.values())))
        _search(study, space, target, train, write)
        return write()


def _search(
    study: Any,
    space: Mapping[str, list[Any]],
    target: int,
    train: Callable[[Mapping[str, Any], Callable[[int, float], None]], Validation],
    write: Callable[[], Study],
) -> None:
    """Carry out trials until so many are finished; write the tables after each."""
    optuna = require_optuna()
    complete, pruned = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
    busy: list[dict[str, Any]] = []  # points that other processes are training

    def finished() -> list[Any]:
        return _distinct(study.get_trials(deepcopy=False, states=(complete, pruned)))

    def objective(trial: Any) -> float:
        values = {key: trial.suggest_categorical(key, space[key]) for key in space}
        if any(values == tried.params for tried in finished()):
            raise _Repeated
        logger.info("Trial %d: %s.", trial.number, values)

        def report(epoch: int, score: float) -> None:
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            validation = train(values, report)
        except BusyError as error:
            logger.info("Trial %d: %s", trial.number, error)
            busy.append(values)
            raise _Repeated from error
        except RunError as error:
            logger.warning("Trial %d failed: %s", trial.number, error)
            trial.set_user_attr("failed", str(error))
            raise optuna.TrialPruned from error
        except KeyboardInterrupt:
            study.enqueue_trial(values)  # the next search goes on with its training
            raise
        _note(trial, validation)
        return validation.score

    def after(_: Any, trial: Any) -> None:
        done = finished()
        if trial.state == optuna.trial.TrialState.FAIL:
            taken = [tried.params for tried in done] + busy
            untried = _untried(space, study.get_trials(deepcopy=False), taken)
            if untried:
                study.enqueue_trial(untried[trial.number % len(untried)])
            else:
                logger.info("Other processes are at work on what is left of the space.")
                study.stop()
        if len(done) >= target:
            study.stop()
        # A pruned trial has a value too, which is not a result.
        if any(tried.state == complete for tried in done):
            write()

    if len(finished()) < target:
        try:
            study.optimize(objective, catch=(_Repeated,), callbacks=[after])
        except (UnboundLocalError, AssertionError) as error:
            # Interrupted or failing while it stores a result, Optuna stumbles on its way out.
            if isinstance(error.__context__, (KeyboardInterrupt, HellmError)):
                raise error.__context__ from None
            raise


class _Repeated(Exception):  # noqa: N818 (a signal, not an error)
    """The sampler repeated values; an untried point follows instead."""


def _distinct(trials: Iterable[Any]) -> list[Any]:
    """One finished trial per point, a complete one before a pruned one.

    A process that takes up a point at the moment in which another one finishes it finishes it, too.
    """
    kept: list[Any] = []
    for trial in sorted(trials, key=lambda trial: (trial.state.name != "COMPLETE", trial.number)):
        if all(trial.params != other.params for other in kept):
            kept.append(trial)
    return kept


def _untried(
    space: Mapping[str, list[Any]], trials: list[Any], taken: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Points of the grid that no trial has used; if there are none, those that are not taken.

    Trials that came to nothing, such as those of killed processes, do not take their points.
    """
    points = [
        dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
    ]
    tried = [trial.params for trial in trials]
    unused = [point for point in points if point not in tried]
    return unused or [point for point in points if point not in taken]


def _shared(base: HellmConfig, space: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all trials share: of the model, its stages and the protocol."""
    shared = recipe(base)
    shared["settings"] = {key: v for key, v in shared["settings"].items() if key not in space}
    return shared


def _note(trial: Any, validation: Validation) -> None:
    for name in ("best_epoch", "epochs", "seconds"):
        trial.set_user_attr(name, getattr(validation, name))
    trial.set_user_attr("run", str(validation.path))


def _write(study: Any, storage: Any, folder: Path, model: str, lead: str) -> Study:
    """Write all trials of the model and the study's best settings; return the study.

    The model's studies are those of the storage whose names begin with `lead`.
    """
    optuna = require_optuna()
    names = [name for name in optuna.study.get_all_study_names(storage) if name.startswith(lead)]
    frames = [
        _trials(optuna.load_study(study_name=name, storage=storage)).assign(
            study=name.removeprefix(lead)
        )
        for name in names
    ]
    tables = [frame for frame in frames if len(frame)]
    if not tables:
        raise RunError(f"No trial of {model} has a score yet; wait for those of other processes.")
    table = pd.concat(tables, ignore_index=True)
    ascending = study.direction.name != "MAXIMIZE"
    table = table.sort_values("score", ascending=ascending, kind="stable", ignore_index=True)
    write_text(folder / f"{model}.csv", table.to_csv(index=False, float_format="%.6g"))
    trials = table[table["study"] == study.study_name.removeprefix(lead)]
    if not (trials["state"] == "complete").any():
        raise RunError(_nothing_complete(study, model))
    path = folder / f"{model}.yaml"
    write_text(path, yaml.safe_dump(study.best_params, sort_keys=False))
    trials = trials.drop(columns="study").dropna(axis=1, how="all").reset_index(drop=True)
    return Study(trials, dict(study.best_params), path)


def _nothing_complete(study: Any, model: str) -> str:
    trials = study.get_trials(deepcopy=False)
    if any(trial.state.name == "RUNNING" for trial in trials):
        return f"No trial of {model} is complete yet; wait for those of other processes."
    failed = [trial.user_attrs["failed"] for trial in trials if "failed" in trial.user_attrs]
    reason = f" (the last one: {failed[-1].rstrip('.')})" if failed else ""
    return f"No trial of {model} was completed{reason}; raise --trials or widen the space."


def _trials(study: Any) -> pd.DataFrame:
    """A study's trials, one per row; unfinished ones are running or were interrupted."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "unfinished"}
    rows = []
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in states]
    running = [t for t in trials if t.state.name == "RUNNING" and t.intermediate_values]
    finished = _distinct(trial for trial in trials if trial.state.name != "RUNNING")
    for trial in sorted([*running, *finished], key=lambda trial: trial.number):
        scores, notes = trial.intermediate_values, trial.user_attrs
        choose = max if study.direction.name == "MAXIMIZE" else min
        best = choose(scores, key=scores.get, default=None)
        rows.append(
            {
                "trial": trial.number,
                **trial.params,
                # A pruned trial's value is its last score, not its best.
                "score": trial.value if trial.state.name == "COMPLETE" else scores.get(best),
                "state": states[trial.state.name],
                "best_epoch": notes.get("best_epoch", None if best is None else best + 1),
                "epochs": notes.get("epochs", max(scores) + 1 if scores else None),
                "seconds": notes.get("seconds", trial.duration and trial.duration.total_seconds()),
            }
        )
    return pd.DataFrame(rows)
