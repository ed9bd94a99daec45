"""Run a model by name: prepare data, train (stages included), evaluate once, record everything."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.utils import init_seed

from recbole_hellm import __version__, compat, registry
from recbole_hellm.config import MASKINGS, HellmConfig, check_addressed
from recbole_hellm.data.dataset import create_dataset
from recbole_hellm.data.loaders import training_loader
from recbole_hellm.data.prepare import ensure_dataset, ensure_features
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.evaluation.evaluator import Evaluation, Evaluator
from recbole_hellm.tracking import RunDirectory, content_hash, environment
from recbole_hellm.training.model_state import embedding_tables, parameter_counts
from recbole_hellm.training.trainer import peak_memory_mb

logger = logging.getLogger(__name__)

# Keys that change where or how fast a run happens, never its result.
NOT_IDENTIFYING = frozenset(
    [
        "data_path",
        "raw_dir",
        "runs_dir",
        "resume",
        "force",
        "save_topk",
        "threads",
        "show_progress",
        "eval_users",
        "gpu_id",
        "worker",
        "use_gpu",
        "device",
        "checkpoint_dir",
        "state",
        "log_wandb",
        "wandb_project",
        "single_spec",
        "local_rank",
        "save_dataset",
        "dataset_save_path",
        "save_dataloaders",
        "dataloaders_save_path",
        "text_encoder",
        "features",
        "MODEL_TYPE",
        "MODEL_INPUT_TYPE",
        "eval_type",
        "loss_decimal_place",
        "eval_batch_size",
    ]
)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run tells.

    Attributes
    ----------
    path : Path
        The run directory.
    record : dict
        Content of its ``metrics.json``.
    stages : tuple of RunResult
        The runs it stands on.
    """

    path: Path
    record: dict[str, Any]
    stages: tuple[RunResult, ...] = ()

    def metrics(self, phase: str = "test", masking: str | None = None) -> dict[str, float]:
        """Metrics of `phase`, under the run's masking or another one."""
        return self.record[phase][masking or self.record["masking"]]


def run(
    model: str = "HeLLM",
    dataset: str = "sample",
    config_files: Iterable[Path] = (),
    **overrides: Any,
) -> RunResult:
    """Train and evaluate `model` on `dataset`, or return the same run if it is finished.

    Parameters
    ----------
    model, dataset : str
        Names as on the command line.
    config_files : iterable of path
        YAML files with settings.
    **overrides
        Settings that win over every file.

    Returns
    -------
    RunResult

    Raises
    ------
    HellmError
        For every mistake a user can make, in one sentence.

    Examples
    --------
    >>> from recbole_hellm import run
    >>> result = run("Pop", "sample", show_progress=False)
    >>> result.record["users"]
    600
    """
    config = HellmConfig(model, dataset, overrides, config_files)
    check_addressed([config])
    return execute(config)


def load_run(path: str | Path) -> RunResult:
    """Read a finished run, and the stages it stands on, from its directory.

    Raises
    ------
    RunError
        If there is no finished run.
    """
    directory = RunDirectory(Path(path))
    if not directory.finished:
        raise RunError(f"{path} holds no finished run (metrics.json is missing).")
    record = directory.read_json("metrics.json")
    # Relative to this directory, so that a folder of runs can be moved.
    places = (os.path.normpath(directory.path / stage) for stage in record["stages"].values())
    stages = tuple(load_run(place) for place in places)
    return RunResult(directory.path, record, stages)


def execute(config: HellmConfig) -> RunResult:
    """Carry out the run that `config` describes; see :func:`run`."""
    compat.supply_dok_update()
    compat.count_every_interaction()
    if config["threads"]:
        torch.set_num_threads(int(config["threads"]))
    ensure_dataset(config)
    if needs_features(config):
        ensure_features(config)
    init_seed(config["seed"], config["reproducibility"])  # DIEN's dataset draws negatives
    dataset = create_dataset(config)
    directory = RunDirectory(run_path(config, dataset))
    if directory.finished and not config["force"]:
        logger.info("%s is finished; --force trains it again.", directory.path)
        return load_run(directory.path)
    try:
        _train(config, dataset, directory)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Model '{config['model']}' needs the package '{error.name}', which is not installed."
        ) from error
    return load_run(directory.path)


def needs_features(config: Any) -> bool:
    """Whether the model, or a stage it stands on, reads item features."""
    entry = registry.OWN_MODELS.get(config["model"])
    if entry is None or not entry.stages:
        return entry is not None and "modalities" in entry.inputs
    return any(needs_features(stage) for stage in config.stages().values())


def run_path(config: Any, dataset: Any) -> Path:
    """Directory of a run, named by a hash of everything that determines its result."""
    identity = _identity(config, dataset)
    folder = Path(config["runs_dir"]) / config["dataset"] / config["model"]
    return folder / content_hash(identity)


def _identity(config: Any, dataset: Any) -> dict[str, Any]:
    settings = {
        key: value for key, value in config.final_config_dict.items() if key not in NOT_IDENTIFYING
    }
    return {
        "settings": settings | config.model_settings(),
        "content": dataset.content,
        "split": dataset.fingerprint,
        "candidates": dataset.candidates,
        "features": dataset.features_fingerprint if needs_features(config) else None,
        "stages": {role: _identity(stage, dataset) for role, stage in config.stages().items()},
        "version": __version__,
    }


def _train(config: Any, dataset: Any, directory: RunDirectory) -> None:
    resuming = config["resume"] and not config["force"] and directory.last_checkpoint.is_file()
    if not resuming:
        directory.clear()
    started = time.perf_counter()
    _write_description(config, dataset, directory)
    compat.stop_anomaly_detection()
    init_seed(config["seed"], config["reproducibility"])
    parts = dataset.build()
    evaluator = Evaluator(config, dataset, dict(zip(("valid", "test"), parts[1:], strict=True)))
    model = build_model(config, parts[0])
    loader = training_loader(config, dataset, parts, model)
    trainer = registry.trainer_class(config["model"], config["MODEL_TYPE"])(
        config,
        model,
        directory,
        evaluator,
        train_stage=lambda stage: RunDirectory(execute(stage).path),
    )
    stages = trainer.prepare(dataset)
    if resuming:
        trainer.resume_checkpoint(directory.last_checkpoint, loader)
    if config["device"].type == "cuda":
        torch.cuda.reset_peak_memory_stats(config["device"])
    trainer.fit(loader, "valid", show_progress=config["show_progress"])
    trainer.load_best()
    own = config["mask_history"]
    maskings = (own, *(name for name in MASKINGS if name != own))
    tested = time.perf_counter()
    test = trainer.evaluate_phase("test", maskings, show_progress=config["show_progress"])
    test_seconds = time.perf_counter() - tested
    _write_ranks(dataset, directory, test)
    tables = embedding_tables(model)
    names = {"user": dataset.user_tokens, "item": dataset.item_tokens}
    if tables:
        # Row 0 is padding; some of RecBole's models keep a mask token after the last item.
        rows = {name: table[1 : len(names[name]) + 1] for name, table in tables.items()}
        directory.write_embeddings(rows, names, dataset.fingerprint)
    record = {
        "model": config["model"],
        "dataset": config["dataset"],
        "masking": own,
        "split": dataset.fingerprint,
        "candidates": dataset.candidates,
        "users": len(dataset.histories.evaluated_users),
        "items": len(dataset.item_tokens),
        "seed": config["seed"],
        "best_epoch": trainer.best_epoch + 1,
        "epochs": trainer.history[-1]["epoch"] + 1 if trainer.history else 0,
        "valid": {own: trainer.best_valid_result},
        "test": test.metrics,
        "cost": {
            "train_seconds": trainer.train_seconds,
            "test_seconds": test_seconds,
            "total_seconds": time.perf_counter() - started,
            "samples_per_second": trainer.seen_samples / max(trainer.train_seconds, 1e-9),
            "peak_memory_mb": peak_memory_mb(config["device"]),
            **parameter_counts(model),
        },
        "stages": {role: os.path.relpath(place, directory.path) for role, place in stages.items()},
    }
    _write_tensorboard(trainer, config, record)
    directory.write_json("metrics.json", record)


def build_model(config: Any, part: Any) -> Any:
    """The model that `config` names, for the training split `part`.

    Raises
    ------
    ConfigError
        If one of RecBole's models refuses its settings.
    """
    cls = registry.model_class(config["model"])
    if not registry.is_recbole(cls):
        return cls(config, part).to(config["device"])
    try:
        return cls(config, part).to(config["device"])
    except (AssertionError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        logger.debug("RecBole's complaint", exc_info=error)
        raise ConfigError(
            f"RecBole cannot build {config['model']} with these settings "
            f"({type(error).__name__}: {error}); see `recbole-hellm models --model="
            f"{config['model']}`."
        ) from error


def _write_description(config: Any, dataset: Any, directory: RunDirectory) -> None:
    settings = {
        key: value
        if isinstance(value, (str, int, float, bool, list, dict, type(None)))
        else str(value)
        for key, value in config.final_config_dict.items()
    }
    directory.write_yaml("config.yaml", settings)
    directory.write_json("environment.json", environment())
    directory.write_json("identity.json", _identity(config, dataset))


def _write_ranks(dataset: Any, directory: RunDirectory, test: Evaluation) -> None:
    for masking, ranks in test.ranks.items():
        users = dataset.id2token(dataset.uid_field, ranks.users)
        items = dataset.id2token(dataset.iid_field, dataset.histories.targets("test"))
        frame = pd.DataFrame(
            {
                "user": users,
                "item": items,
                "higher": ranks.higher,
                "tied": ranks.tied,
                "candidates": ranks.candidates,
            }
        )
        directory.write_table(f"ranks-{masking}.parquet", frame)
    if test.topk is not None:
        masking = next(iter(test.ranks))
        users = dataset.id2token(dataset.uid_field, next(iter(test.ranks.values())).users)
        length = test.topk.shape[1]
        frame = pd.DataFrame(
            {
                "user": np.repeat(users, length),
                "place": np.tile(np.arange(1, length + 1), len(users)),
                "item": dataset.id2token(dataset.iid_field, test.topk.ravel()),
            }
        )
        directory.write_table(f"topk-{masking}.parquet", frame)


def _write_tensorboard(trainer: Any, config: Any, record: Mapping[str, Any]) -> None:
    writer = trainer.tensorboard
    results = {}
    for masking, metrics in record["test"].items():
        for name, value in metrics.items():
            writer.add_scalar(f"test-{masking}/{name}", value, record["best_epoch"])
            results[f"test-{masking}/{name}"] = value
    names = ("model", "dataset", "seed", "mask_history", "train_batch_size")
    shown = {key: config[key] for key in names}
    settings = {
        key: value if isinstance(value, (int, float, str, bool)) else str(value)
        for key, value in (shown | config.model_settings()).items()
    }
    writer.add_hparams(settings, results, run_name="hparams")
    writer.close()
