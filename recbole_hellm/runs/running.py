"""Run a model by name: prepare data, train (stages included), evaluate once, write the record."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

from recbole_hellm import recbole_models, registry
from recbole_hellm.config.logs import log_file
from recbole_hellm.config.resolution import HellmConfig, check_addressed
from recbole_hellm.config.settings import names
from recbole_hellm.config.yaml_files import as_paths
from recbole_hellm.errors import ConfigError
from recbole_hellm.progress import bars
from recbole_hellm.runs.directory import LOG, RunDirectory
from recbole_hellm.runs.opening import open_run
from recbole_hellm.runs.restoring import add_lists
from recbole_hellm.runs.results import RunResult, load_run
from recbole_hellm.runs.scoring import score
from recbole_hellm.runs.training import track_validation, train
from recbole_hellm.tracking.tracking import Tracking
from recbole_hellm.training.distributed import alone, current, process_group
from recbole_hellm.training.sharing import data_parallel

logger = logging.getLogger(__name__)

Files: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class Validation:
    """The result of a training before its test split is scored.

    Attributes
    ----------
    path : Path
        The run directory.
    score : float
        The best value of ``valid_metric``, under the run's masking.
    metrics : dict
        All validation metrics of that epoch.
    best_epoch, epochs : int
        The best validation epoch, from 1, and the number of trained epochs.
    seconds : float
        Training time.
    """

    path: Path
    score: float
    metrics: dict[str, float]
    best_epoch: int
    epochs: int
    seconds: float


@overload
def run(
    model: str | type = ..., dataset: str = ..., config_files: Files = ..., **overrides: Any
) -> RunResult: ...


@overload
def run(
    model: Sequence[str | type],
    dataset: str = ...,
    config_files: Files = ...,
    **overrides: Any,
) -> list[RunResult]: ...


def run(
    model: str | type | Sequence[str | type] = "HeLLM",
    dataset: str = "sample",
    config_files: Files = (),
    **overrides: Any,
) -> RunResult | list[RunResult]:
    """Train and evaluate `model` on `dataset`, or return the finished run with the same id.

    Parameters
    ----------
    model : str, type or sequence of these
        A name as on the command line, or a class of a module. Several are trained one after the
        other, after the settings of all have been checked.
    dataset : str
        A name as on the command line.
    config_files : path or iterable of path
        YAML files with settings.
    **overrides
        Settings with priority over all files.

    Returns
    -------
    RunResult or list of RunResult
        A list where `model` names several.

    Raises
    ------
    HellmError
        For every user error, in one sentence.

    Examples
    --------
    >>> from recbole_hellm import run
    >>> result = run("Pop", "sample", show_progress=False)
    >>> result.record["users"]
    1000
    """
    models = _names(model)
    if not isinstance(dataset, str) or not dataset:
        raise ConfigError(f"dataset={dataset!r} is no name; write one name as a text, in quotes.")
    files = as_paths(config_files)
    configs = [HellmConfig(name, dataset, overrides, files) for name in models]
    check_addressed(configs)
    results = [execute(config) for config in configs]
    return results if isinstance(model, (list, tuple)) or len(results) > 1 else results[0]


def _names(model: Any) -> list[str]:
    """Names of models on the command line."""
    listed: tuple[Any, ...] = (model,) if isinstance(model, type) else ()
    if isinstance(model, (str, list, tuple)):
        listed = names(model) if isinstance(model, str) else tuple(model)
    if not listed or not all(isinstance(one, (str, type)) and one for one in listed):
        raise ConfigError(f"model={model!r} is no name; write a name as a text, in quotes.")
    return list(map(_name, listed))


def _name(model: str | type) -> str:
    """The name of a model on the command line."""
    if not isinstance(model, type):
        return model
    name, module = model.__name__, model.__module__
    if not hasattr(sys.modules.get(module), "__file__"):
        raise ConfigError(
            f"The class {name} is in no file, where a later start could find it; put it into a "
            "module, and import it from there."
        )
    known = registry.OWN_MODELS.get(name) or registry.COMPARED_MODELS.get(name)
    recboles = recbole_models.modules().get(name)
    return name if module in (known.module if known else None, recboles) else f"{module}:{name}"


def execute(config: HellmConfig, wait: bool = False) -> RunResult:
    """Carry out the run that `config` describes; see :func:`run`.

    A run that another process trains is refused, or waited for with `wait`. Several processes share
    the training of the models of :func:`~recbole_hellm.training.sharing.data_parallel`. The first
    process alone trains any other model.
    """
    with process_group() as processes:
        if processes.size == 1 or data_parallel(config.entry):
            return _execute_here(config, wait)
        path = None
        if processes.first:
            logger.info("%s runs in one process while the others wait.", config["model"])
            with alone():
                path = _execute_here(config, wait).path
        return load_run(processes.broadcast(path))


def _execute_here(config: HellmConfig, wait: bool) -> RunResult:
    """Return the finished run, or train it and score its test split once."""
    with _bars(config):
        return _finished(config, wait)


def _bars(config: HellmConfig) -> contextlib.AbstractContextManager[None]:
    return bars(config["show_progress"] if current().first else False)


def _logged(directory: RunDirectory) -> contextlib.AbstractContextManager[None]:
    return log_file(directory.file(LOG)) if current().first else contextlib.nullcontext()


def _finished(config: HellmConfig, wait: bool) -> RunResult:
    dataset, directory = open_run(config)
    if current().broadcast(directory.finished and not config["force"]):
        logger.info("%s is finished; --force trains it again.", directory.path)
        if current().first:
            directory.tidy()
        if current().first and config["save_topk"]:
            with alone():
                add_lists(directory, config["save_topk"], config["data_path"], show_progress=True)
    else:
        with directory.locked(wait):
            # The process that was waited for has trained it.
            if not current().broadcast(wait and directory.finished and not config["force"]):
                with _logged(directory), Tracking.of(config) as tracking:
                    score(train(config, dataset, directory, _train_stage, tracking))
    current().barrier()
    return load_run(directory.path)


def _train_stage(config: HellmConfig) -> RunDirectory:
    """The finished run of a stage; trains it if needed."""
    return RunDirectory(execute(config, wait=True).path)


def validate(
    config: HellmConfig,
    on_validation: Callable[[int, float], None] | None = None,
    searched: Mapping[str, Any] | None = None,
) -> Validation:
    """Train the run that `config` describes without scoring its test split.

    The run directory is that of the run itself, so :func:`execute` with ``resume`` reuses the
    training and only scores the test split.

    Parameters
    ----------
    config : HellmConfig
        ``resume`` continues an interrupted training.
    on_validation : callable, optional
        Called with the epoch, from 0, and the validation score after each evaluation; an exception
        from it ends the training.
    searched : Mapping, optional
        The settings among ``config``'s that a search tries, for trackers.

    Returns
    -------
    Validation
    """
    with _bars(config):
        return _validated(config, on_validation, searched)


def _validated(
    config: HellmConfig,
    on_validation: Callable[[int, float], None] | None,
    searched: Mapping[str, Any] | None,
) -> Validation:
    dataset, directory = open_run(config)
    if directory.finished and not config["force"]:
        record = load_run(directory.path).record
        scores = record["valid"][record["masking"]]
        return Validation(
            directory.path,
            scores[config["valid_metric"].lower()],
            scores,
            record["best_epoch"],
            record["epochs"],
            record["cost"]["train_seconds"],
        )
    with directory.locked(), _logged(directory), Tracking.of(config, searched) as tracking:
        trainer = train(config, dataset, directory, _train_stage, tracking, on_validation).trainer
        track_validation(trainer, tracking)
    return Validation(
        directory.path,
        float(trainer.best_valid_score),
        dict(trainer.best_valid_result),
        trainer.best_epoch + 1,
        trainer.history[-1]["epoch"] + 1,
        trainer.train_seconds,
    )
