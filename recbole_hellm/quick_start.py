"""Run a model by name: prepare data, train (stages included), evaluate once, record everything."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.utils import init_seed

from recbole_hellm import __version__, compat, registry, session
from recbole_hellm.config import HellmConfig, check_addressed
from recbole_hellm.data.dataset import create_dataset
from recbole_hellm.data.prepare import ensure_dataset, ensure_features
from recbole_hellm.runs import RunResult, load_run
from recbole_hellm.tracking import RunDirectory, SilentDirectory, content_hash
from recbole_hellm.training.distributed import alone, current, together

logger = logging.getLogger(__name__)

# Keys that change where or how fast a run happens, never its result.
NOT_IDENTIFYING = frozenset(
    [
        "data_path",
        "raw_dir",
        "mirrors",
        "runs_dir",
        "resume",
        "force",
        "save_topk",
        "projector",
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
        "parallel",
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
        # Their files' content stands where the stages they replace do.
        "graph_embeddings",
        "sequence_embeddings",
    ]
)


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a training tells before its test split is scored.

    Attributes
    ----------
    path : Path
        The run directory.
    score : float
        The best value of ``valid_metric``, under the run's masking.
    metrics : dict
        All validation metrics of that epoch.
    best_epoch, epochs : int
        The epoch that validation chose, from 1, and how many were trained.
    seconds : float
        Training time.
    """

    path: Path
    score: float
    metrics: dict[str, float]
    best_epoch: int
    epochs: int
    seconds: float


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
    1000
    """
    config = HellmConfig(model, dataset, overrides, config_files)
    check_addressed([config])
    return execute(config)


def execute(config: HellmConfig) -> RunResult:
    """Carry out the run that `config` describes; see :func:`run`.

    Several processes share the training of a model with ``data_parallel``. Any other one is trained
    by the first of them.
    """
    with together() as processes:
        if processes.size == 1 or getattr(config.model_class, "data_parallel", False):
            return _execute(config)
        path = None
        if processes.first:
            logger.info("%s runs in one process while the others wait.", config["model"])
            with alone():
                path = _execute(config).path
        return load_run(processes.from_first(path))


def _execute(config: HellmConfig) -> RunResult:
    dataset, directory = _open(config)
    if current().from_first(directory.finished and not config["force"]):
        logger.info("%s is finished; --force trains it again.", directory.path)
        result = load_run(directory.path)
        if current().first and config["save_topk"]:
            # Deferred, since that module imports this one.
            from recbole_hellm.restoring import add_lists

            with alone():
                data_path = Path(config["data_path"]).parent
                add_lists(result, config["save_topk"], data_path, config["show_progress"])
        current().wait()
        return result
    with directory.claimed():
        session.score(_train(config, dataset, directory))
    current().wait()
    return load_run(directory.path)


def validate(
    config: HellmConfig, on_validation: Callable[[int, float], None] | None = None
) -> Validation:
    """Train the run that `config` describes and leave its test split unscored.

    The run directory is that of the run itself: :func:`execute` with ``resume`` finds the training
    done there and only scores the test split.

    Parameters
    ----------
    config : HellmConfig
        ``resume`` goes on with a training that was broken off.
    on_validation : callable, optional
        Called with the epoch, from 0, and the validation score after each evaluation; what it
        raises ends the training.

    Returns
    -------
    Validation
    """
    dataset, directory = _open(config)
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
    with directory.claimed():
        trainer = _train(config, dataset, directory, on_validation).trainer
    return Validation(
        directory.path,
        float(trainer.best_valid_score),
        dict(trainer.best_valid_result),
        trainer.best_epoch + 1,
        trainer.history[-1]["epoch"] + 1,
        trainer.train_seconds,
    )


def _open(config: HellmConfig) -> tuple[Any, RunDirectory]:
    dataset = open_dataset(config, needs_features(config))
    path = run_path(config, dataset)
    if current().first:
        return dataset, RunDirectory(path)
    config["show_progress"] = False
    return dataset, SilentDirectory(path)


def open_dataset(config: HellmConfig, features: bool) -> Any:
    """The dataset of `config`, prepared where it is not; its item features too, if asked for."""
    compat.supply_dok_update()
    compat.count_every_interaction()
    if config["threads"]:
        torch.set_num_threads(int(config["threads"]))
    with current().first_goes_ahead():
        ensure_dataset(config)
        if features:
            ensure_features(config)
    init_seed(config["seed"], config["reproducibility"])  # DIEN's dataset draws negatives
    return create_dataset(config)


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


def identifying_settings(config: Any) -> dict[str, Any]:
    """The settings that determine a run's result."""
    settings = config.final_config_dict | config.model_settings()
    replaced = {f"{role}_model" for role in config.imported}
    left_out = NOT_IDENTIFYING | config.untouched_additions() | replaced
    return {key: value for key, value in settings.items() if key not in left_out}


def recipe(config: Any) -> dict[str, Any]:
    """What determines a run's result but for the data: its settings and those of its stages.

    A run's id also holds this package's version and hashes of the data and of item features, whose
    last bits differ between processors; a recipe is the same on every machine.
    """
    imported = {role: {"sha256": file.sha256} for role, file in config.imported.items()}
    stages = {role: recipe(stage) for role, stage in config.stages().items()}
    return {"settings": portable(identifying_settings(config)), "stages": stages | imported}


def recipe_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a run from its ``identity.json``; an imported file's part stays as it is."""
    if "settings" not in identity:
        return dict(identity)
    stages = {role: recipe_of(stage) for role, stage in identity["stages"].items()}
    return {"settings": portable(identity["settings"]), "stages": stages}


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the folders of this machine: of a whole path, such as a backbone's, the
    last part stays."""
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in settings.items()
    }


def _identity(config: Any, dataset: Any) -> dict[str, Any]:
    imported = {role: {"sha256": file.sha256} for role, file in config.imported.items()}
    stages = {role: _identity(stage, dataset) for role, stage in config.stages().items()}
    return {
        "settings": identifying_settings(config),
        "content": dataset.content,
        "split": dataset.fingerprint,
        "candidates": dataset.candidates,
        "features": dataset.features_fingerprint if needs_features(config) else None,
        "stages": stages | imported,
        "version": __version__,
    }


def _train(
    config: HellmConfig,
    dataset: Any,
    directory: RunDirectory,
    on_validation: Callable[[int, float], None] | None = None,
) -> session.Trained:
    def train_stage(stage: HellmConfig) -> RunDirectory:
        return RunDirectory(execute(stage).path)

    identity = _identity(config, dataset)
    return session.train(config, dataset, directory, identity, train_stage, on_validation)
