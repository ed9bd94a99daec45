"""The record of a run, and the single scoring of its test split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support.runs import MASKINGS

from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.runs.directory import ARTEFACTS
from recbole_hellm.runs.results import RunResult
from recbole_hellm.training.trainer import RunTrainer


def test_the_record_tells_what_was_measured(bpr: RunResult, interactions: pd.DataFrame) -> None:
    record = bpr.record
    assert bpr.path.parent.name == "BPR"
    assert bpr.path.parent.parent.name == "tiny"
    assert (record["model"], record["dataset"], record["masking"]) == ("BPR", "tiny", "seen")
    assert (record["users"], record["items"], record["seed"]) == (36, 30, 2024)
    assert set(record["test"]) == set(MASKINGS)
    assert list(record["valid"]) == ["seen"]
    assert record["epochs"] == 3
    assert record["best_epoch"] in (2, 3)
    cost = record["cost"]
    assert cost["parameters"] == cost["trainable_parameters"] == (41 + 31) * 8
    assert cost["train_seconds"] > 0
    assert cost["train_cpu_seconds"] > 0
    assert cost["samples_per_second"] > 0
    assert bpr.metrics() == record["test"]["seen"]
    assert bpr.metrics("test", "none") == record["test"]["none"]


def test_embeddings_are_written_by_token(bpr: RunResult, make_config: Callable[..., Any]) -> None:
    tables = load_file(bpr.path / "embeddings.safetensors")
    described = json.loads((bpr.path / "embeddings.json").read_text())
    weights = torch.load(bpr.path / "best.pt", weights_only=True)["model"]
    assert described["split"] == bpr.record["split"]
    dataset = create_dataset(make_config("BPR"))
    assert described["tokens"]["item"] == list(dataset.item_tokens)
    assert described["tokens"]["user"] == list(dataset.user_tokens)
    assert torch.equal(tables["item"], weights["item_embedding.weight"][1:])
    assert len(described["tokens"]["user"]) == len(tables["user"]) == 40


def test_the_test_split_is_ranked_by_the_weights_that_validation_chose(
    train: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first epoch is declared the best, so the test must be that of a one-epoch run."""
    once = train("BPR", epochs=1)
    original, phases = RunTrainer.evaluate_phase, []

    def worse_each_time(self: Any, phase: str, *given: Any, **named: Any) -> Any:
        evaluation = original(self, phase, *given, **named)
        phases.append(phase)
        if phase == "valid":
            evaluation.metrics["seen"]["ndcg@10"] = 1 / len(phases)
        return evaluation

    monkeypatch.setattr(RunTrainer, "evaluate_phase", worse_each_time)
    longer = train("BPR", epochs=3, runs_dir=str(tmp_path / "longer"))
    assert (longer.record["best_epoch"], longer.record["epochs"]) == (1, 3)
    assert longer.record["test"] == once.record["test"]
    assert phases == ["valid"] * 3 + ["test"]  # the test split is scored once


@pytest.mark.parametrize(("model", "unit"), [("BPR", "user"), ("SASRec", "interaction")])
def test_a_temporal_run_is_recorded_restored_and_scored_again(
    train: Callable[..., RunResult], spread_data: Path, model: str, unit: str
) -> None:
    options = {"split": "temporal", "split_points": [0.6, 0.8], "data_path": str(spread_data)}
    result = train(model, epochs=1, **options)
    record = result.record
    assert record["protocol"] == {"split": "temporal", "split_points": [0.6, 0.8]}
    held = record["held_out"]
    assert held["rows"] == unit
    assert held["test"]["users"] == record["users"] < held["test"]["targets"]
    assert held["test"]["unknown_users"] > 0
    ranks = pd.read_parquet(result.path / "ranks-seen.parquet")
    assert ranks["row"].nunique() == held["test"]["rows"]
    assert (len(ranks), ranks["user"].nunique()) == (held["test"]["targets"], record["users"])
    again = result.evaluate("test")
    assert again["seen"] == pytest.approx(result.metrics())
    longer = train(model, epochs=1, save_topk=5, **options)  # lists are made from the model
    assert longer.path == result.path
    lists = pd.read_parquet(result.path / "topk-seen.parquet")
    assert len(lists) == 5 * held["test"]["rows"]
    assert ("row" in lists) == (unit == "interaction")


def test_stages_of_a_language_model_have_its_split(
    train: Callable[..., RunResult], spread_data: Path, small_model: dict[str, Any]
) -> None:
    options = {"split": "temporal", "split_points": [0.6, 0.8], "data_path": str(spread_data)}
    result = train("HeLLM", **small_model, **options)
    units = {run.record["model"]: run.record["held_out"]["rows"] for run in result.all_stages}
    assert units == {"HeLLMPre": "user", "SASRec": "interaction"}
    assert result.record["held_out"]["rows"] == "interaction"
    for stage in result.all_stages:
        assert stage.record["split"] == result.record["split"]
        assert stage.record["protocol"] == result.record["protocol"]
    card = (result.path / ARTEFACTS / "README.md").read_text()
    assert "Dataset `tiny`, split=temporal, split_points=[0.6, 0.8]; split fingerprint" in card
