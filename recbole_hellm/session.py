"""One run from its configuration to its record: build, train, score the test split once."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.utils import init_seed

from recbole_hellm import board, compat, registry
from recbole_hellm.config import MASKINGS
from recbole_hellm.data.loaders import training_loader
from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation.evaluator import Evaluation, Evaluator
from recbole_hellm.tracking import RunDirectory, environment
from recbole_hellm.training.distributed import current
from recbole_hellm.training.memory import keep_freed_memory, peak_memory_mb
from recbole_hellm.training.model_state import embedding_tables, item_vectors, parameter_counts
from recbole_hellm.training.parallel import building_device, check_shareable
from recbole_hellm.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

ARTEFACTS = "model"  # folder of a fine-tuned run's model in its directory


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training that has come to its end, before its test split is scored."""

    config: Any
    dataset: Any
    directory: RunDirectory
    model: Any
    trainer: Any
    stages: dict[str, str]
    started: float


def train(
    config: Any,
    dataset: Any,
    directory: RunDirectory,
    identity: Mapping[str, Any],
    train_stage: Callable[[Any], RunDirectory],
    on_validation: Callable[[int, float], None] | None = None,
) -> Trained:
    """Build and train the model that `config` names, its stages first.

    Parameters
    ----------
    config : HellmConfig
    dataset : Dataset
        All interactions.
    directory : RunDirectory
    identity : Mapping
        What the run's id is a hash of, for its record.
    train_stage : callable
        Trains, or finds, the run that a stage's configuration describes.
    on_validation : callable, optional
        Called with the epoch, from 0, and the score after each validation.

    Raises
    ------
    ConfigError
        If the model cannot be built, or needs a package that is not installed.
    """
    try:
        return _train(config, dataset, directory, identity, train_stage, on_validation)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Model '{config['model']}' needs the package '{error.name}', which is not installed."
        ) from error


def _train(
    config: Any,
    dataset: Any,
    directory: RunDirectory,
    identity: Mapping[str, Any],
    train_stage: Callable[[Any], RunDirectory],
    on_validation: Callable[[int, float], None] | None,
) -> Trained:
    resuming = config["resume"] and not config["force"] and directory.last_checkpoint.is_file()
    if not resuming:
        directory.clear()
    resuming = current().from_first(resuming)
    started = time.perf_counter()
    _write_description(config, directory, identity)
    compat.stop_anomaly_detection()
    if config["device"].type == "cpu":
        keep_freed_memory()
    init_seed(config["seed"], config["reproducibility"])
    parts = dataset.build()
    evaluator = Evaluator(config, dataset, dict(zip(("valid", "test"), parts[1:], strict=True)))
    model = build_model(config, parts[0])
    check_shareable(config, model)
    loader = training_loader(config, dataset, parts, model)
    trainer = registry.trainer_class(config["model"], config["MODEL_TYPE"])(
        config,
        model,
        directory,
        evaluator,
        train_stage=train_stage,
    )
    stages = trainer.prepare(dataset)
    board.write_settings(trainer.tensorboard, config, stages)
    trainer.distribute()
    if resuming:
        trainer.resume_checkpoint(directory.last_checkpoint, loader)
    if config["device"].type == "cuda":
        torch.cuda.reset_peak_memory_stats(config["device"])
    trainer.fit(loader, "valid", show_progress=config["show_progress"], callback_fn=on_validation)
    return Trained(config, dataset, directory, model, trainer, stages, started)


def score(trained: Trained) -> None:
    """Score the test split on the selected epoch, once, and write the run's record."""
    config, dataset, directory = trained.config, trained.dataset, trained.directory
    model, trainer = trained.model, trained.trainer
    trainer.load_best()
    own = config["mask_history"]
    tested = time.perf_counter()
    test = trainer.evaluate_phase("test", maskings(config), show_progress=config["show_progress"])
    test_seconds = time.perf_counter() - tested
    _write_ranks(dataset, directory, test)
    write_lists(dataset, directory, test)
    tables = embedding_tables(model)
    names = {"user": dataset.user_tokens, "item": dataset.item_tokens}
    if tables:
        # Row 0 is padding; some of RecBole's models keep a mask token after the last item.
        rows = {name: table[1 : len(names[name]) + 1] for name, table in tables.items()}
        directory.write_embeddings(rows, names, dataset.fingerprint)
    weights = trainer.parallel.weights()  # all processes' part, where they share them
    if config["projector"] and current().first:
        vectors = item_vectors(model, tables, weights)
        if vectors is not None:
            shown = vectors[1 : len(names["item"]) + 1]
            board.write_projector(directory, config, dataset, shown)
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
            # Of all threads together; other work on the machine hardly moves it.
            "train_cpu_seconds": sum(current().gather(trainer.train_cpu_seconds)),
            "test_seconds": test_seconds,
            "total_seconds": time.perf_counter() - trained.started,
            "samples_per_second": trainer.seen_samples / max(trainer.train_seconds, 1e-9),
            "processes": current().size,
            "peak_memory_mb": max(current().gather(peak_memory_mb(config["device"]))),
            **trainer.seen_tokens.costs(trainer.train_seconds),
            **parameter_counts(model),
        },
        "stages": {
            role: os.path.relpath(place, directory.path) for role, place in trained.stages.items()
        },
        "imported": {
            role: {"file": file.path.name, "sha256": file.sha256}
            for role, file in config.imported.items()
        },
    }
    _write_artefacts(trained, record, weights)
    board.write_results(trainer.tensorboard, record, config["valid_metric"])
    directory.write_json("metrics.json", record)


def maskings(config: Any) -> tuple[str, ...]:
    """All maskings, the run's own first."""
    own = config["mask_history"]
    return (own, *(name for name in MASKINGS if name != own))


def build_model(config: Any, part: Any, **trained: Any) -> Any:
    """The model that `config` names, for the training split `part`.

    Parts that are trained already are passed on to the model.

    Raises
    ------
    ConfigError
        If one of RecBole's models refuses its settings.
    """
    cls = registry.model_class(config["model"])
    device = building_device(config)
    if not registry.is_recbole(cls):
        return cls(config, part, **trained).to(device)
    try:
        return cls(config, part).to(device)
    except (AssertionError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        logger.debug("RecBole's complaint", exc_info=error)
        raise ConfigError(
            f"RecBole cannot build {config['model']} with these settings "
            f"({type(error).__name__}: {error}); see `recbole-hellm models --model="
            f"{config['model']}`."
        ) from error


def _write_description(config: Any, directory: RunDirectory, identity: Mapping[str, Any]) -> None:
    settings = {
        key: value
        if isinstance(value, (str, int, float, bool, list, dict, type(None)))
        else str(value)
        for key, value in config.final_config_dict.items()
    }
    directory.write_yaml("config.yaml", settings)
    directory.write_json("environment.json", environment())
    directory.write_json("identity.json", identity)


def _write_artefacts(
    trained: Trained, record: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> None:
    """What it takes to have a fine-tuned model again, in any process; a folder of its own."""
    config = trained.config
    entry = registry.OWN_MODELS.get(config["model"])
    if entry is None or entry.kind != "LLM":
        return
    from recbole_hellm.models.llm.artefacts import save_artefacts
    from recbole_hellm.models.llm.model_card import CardFacts

    training = TrainingSettings.from_config(config).to_dict() | {
        "train_batch_size": config["train_batch_size"],
        "seed": record["seed"],
        "epochs_trained": record["epochs"],
        "best_epoch": record["best_epoch"],
    }
    facts = CardFacts(
        model=config["model"],
        dataset=config["dataset"],
        split=record["split"],
        masking=record["masking"],
        metrics=record["test"],
        training=training,
        versions=environment()["packages"],
    )
    if not current().first:
        return
    state = {name.removeprefix("network."): value for name, value in weights.items()}
    folder = trained.directory.file(ARTEFACTS)
    tokens = list(trained.dataset.item_tokens)
    save_artefacts(trained.model.network, folder, tokens, facts=facts, state=state)


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


def lists_file(masking: str) -> str:
    """Name of the file of recommended lists in a run directory."""
    return f"topk-{masking}.parquet"


def write_lists(dataset: Any, directory: RunDirectory, test: Evaluation) -> None:
    """Write the recommended lists, if the evaluation kept any (``save_topk``)."""
    if test.topk is None:
        return
    masking = next(iter(test.ranks))
    users = dataset.id2token(dataset.uid_field, test.ranks[masking].users)
    length = test.topk.shape[1]
    frame = pd.DataFrame(
        {
            "user": np.repeat(users, length),
            "place": np.tile(np.arange(1, length + 1), len(users)),
            "item": dataset.id2token(dataset.iid_field, test.topk.ravel()),
        }
    )
    directory.write_table(lists_file(masking), frame)
