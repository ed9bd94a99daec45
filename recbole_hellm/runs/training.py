"""Build and train the model of a run, stages first."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from recbole.utils import init_seed

from recbole_hellm import recbole_models
from recbole_hellm.config.yaml_files import with_lists
from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.errors import ConfigError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.environment import environment
from recbole_hellm.runs.identity import run_identity
from recbole_hellm.runs.opening import build_model, open_splits
from recbole_hellm.runs.restoring import load_members
from recbole_hellm.tracking.run_facts import (
    begin,
    training_name,
    validation_of,
)
from recbole_hellm.tracking.tracking import Tracking
from recbole_hellm.training.distributed import current
from recbole_hellm.training.memory import keep_freed_memory
from recbole_hellm.training.parallel import check_shareable

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished training before its test split is scored."""

    config: Any
    dataset: Any
    directory: RunDirectory
    model: Any
    trainer: Any
    tracking: Tracking
    stages: dict[str, str]
    started: float


def train(
    config: Any,
    dataset: Any,
    directory: RunDirectory,
    train_stage: Callable[[Any], RunDirectory],
    tracking: Tracking,
    on_validation: Callable[[int, float], None] | None = None,
) -> Trained:
    """Build and train the model that `config` names, stages first.

    Parameters
    ----------
    config : HellmConfig
    dataset : Dataset
        All interactions.
    directory : RunDirectory
    train_stage : callable
        Trains the run that a stage's configuration describes, or returns the finished run.
    tracking : Tracking
        Started here, and told of all epochs.
    on_validation : callable, optional
        Called with the epoch, from 0, and the score after each validation.

    Raises
    ------
    ConfigError
        If the model cannot be built, or needs a package that is not installed.
    """
    goes_on = config["resume"] and not config["force"]
    resuming = goes_on and directory.last_checkpoint.is_file()
    # Killed before its first checkpoint, a training is the same to trackers.
    name = training_name(directory) if goes_on else None
    if not resuming:
        directory.clear()
    resuming = current().broadcast(resuming)
    started = time.perf_counter()
    _write_description(config, dataset, directory)
    if goes_on and not resuming:
        logger.info("%s has no checkpoint; its training starts.", directory.path)
    with _needed_packages(config), recbole_models.failing(config["model"]):
        if config["device"].type == "cpu":
            keep_freed_memory()
        with current().first_goes_ahead():
            for source in config.item_inputs.values():
                source.prepare(dataset)
        init_seed(config["seed"], config["reproducibility"])
        splits, evaluator = open_splits(config, dataset)
        model = build_model(config, splits[0])
        check_shareable(config, model)
        loader = training_loader(config, dataset, splits, model)
        trainer = config.trainer_class()(
            config,
            model,
            directory,
            evaluator,
            train_stage=train_stage,
        )
        stages = trainer.prepare(dataset)
        load_members(model, stages, config["data_path"], config["device"])
        trainer.distribute()
        if resuming:
            trainer.resume_checkpoint(directory.last_checkpoint, loader)
        begin(tracking, config, directory, stages, trainer.curves, name)
        trainer.tracking = tracking
        if config["device"].type == "cuda":
            torch.cuda.reset_peak_memory_stats(config["device"])

        def report(epoch: int, score: float) -> None:
            if on_validation is None:
                return
            try:
                on_validation(epoch, score)
            except Exception:  # a search ends this trial
                track_validation(trainer, tracking)
                tracking.finish("stopped")
                raise

        trainer.fit(loader, "valid", show_progress=True, callback_fn=report)
        return Trained(config, dataset, directory, model, trainer, tracking, stages, started)


def track_validation(trainer: Any, tracking: Tracking) -> None:
    """Tell trackers what a training came to whose test split is not scored."""
    results = validation_of(trainer, trainer.config["valid_metric"])
    tracking.results(results, trainer.best_epoch)


@contextlib.contextmanager
def _needed_packages(config: Any) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Model '{config['model']}' needs the package '{error.name}', which is not installed; "
            "install it."
        ) from error


def _write_description(config: Any, dataset: Any, directory: RunDirectory) -> None:
    settings = {
        key: with_lists(value)
        if isinstance(value, (str, int, float, list, tuple, dict, type(None)))
        else str(value)
        for key, value in config.final_config_dict.items()
    }
    directory.write_yaml("config.yaml", settings)
    directory.write_json("environment.json", environment())
    directory.write_json("identity.json", run_identity(config, dataset))
