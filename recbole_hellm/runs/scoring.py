"""Score the test split of a trained model, once, and write the run's record."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import torch

from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.split_settings import described, protocol
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.runs.directory import ARTEFACTS
from recbole_hellm.runs.environment import environment
from recbole_hellm.runs.rankings import maskings, write_lists, write_ranks
from recbole_hellm.runs.training import Trained
from recbole_hellm.tracking.projector import write_projector
from recbole_hellm.tracking.run_facts import results_of
from recbole_hellm.training.distributed import current
from recbole_hellm.training.memory import peak_memory_mb
from recbole_hellm.training.model_state import embedding_tables, item_vectors, parameter_counts


def score(trained: Trained) -> None:
    """Score the test split once with the best validation epoch, and write the run's record."""
    config, dataset, directory = trained.config, trained.dataset, trained.directory
    model, trainer = trained.model, trained.trainer
    trainer.load_best()
    masking = config["mask_history"]
    tested = time.perf_counter()
    test = trainer.evaluate_phase("test", maskings(config), show_progress=True)
    test_seconds = time.perf_counter() - tested
    write_ranks(dataset, directory, test)
    write_lists(dataset, directory, test)
    tables = embedding_tables(model)
    names = {"user": dataset.user_tokens, "item": dataset.item_tokens}
    if tables:
        # Row 0 is padding; some RecBole models have a mask token after the last item.
        rows = {name: table[1 : len(names[name]) + 1] for name, table in tables.items()}
        directory.write_embeddings(rows, names, dataset.fingerprint)
    weights = trainer.parallel.weights()  # collective: every process must call it
    settings = RunSettings.from_config(config)
    if settings.projector and "tensorboard" in settings.trackers and current().first:
        vectors = item_vectors(model, tables, weights)
        if vectors is not None:
            shown = vectors[1 : len(names["item"]) + 1]
            write_projector(directory, config, dataset, shown)
    record = {
        "model": config["model"],
        "dataset": config["dataset"],
        "masking": masking,
        "split": dataset.fingerprint,
        "candidates": dataset.candidates_hash,
        "users": len(dataset.histories.evaluated("test")),
        "items": len(dataset.item_tokens),
        "seed": config["seed"],
        "best_epoch": trainer.best_epoch + 1,
        "epochs": trainer.history[-1]["epoch"] + 1 if trainer.history else 0,
        "valid": {masking: trainer.best_valid_result},
        "test": test.metrics,
        "cost": {
            "train_seconds": trainer.train_seconds,
            # Sum over all threads; other load on the machine hardly affects it.
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
            role: os.path.relpath(stage, directory.path) for role, stage in trained.stages.items()
        },
        "imported": {
            role: {"file": file.path.name, "sha256": file.sha256}
            for role, file in config.imported.items()
        },
    }
    shared = protocol(config)
    if shared:
        record |= {"protocol": shared, "held_out": dataset.held_out}
    _write_artefacts(trained, record, weights)
    results = results_of(record, config["valid_metric"])
    trained.tracking.results(results, record["best_epoch"] - 1)
    directory.write_record(record)
    trained.tracking.artefacts(directory.path, settings.tracked_files)


def _write_artefacts(
    trained: Trained, record: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> None:
    """Write the folder from which any process can load the fine-tuned model."""
    config = trained.config
    if config.entry.kind != "LLM":
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
        protocol=described(record),
    )
    if not current().first:
        return
    state = {name.removeprefix("network."): value for name, value in weights.items()}
    folder = trained.directory.file(ARTEFACTS)
    items, users = list(trained.dataset.item_tokens), list(trained.dataset.user_tokens)
    network = trained.model.network
    save_artefacts(network, folder, items, facts=facts, state=state, user_tokens=users)
