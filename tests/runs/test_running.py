"""Whole runs: what they leave, that they repeat, and that a kill changes nothing."""

from __future__ import annotations

import json
import logging
import math
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_hellm import load_run, run
from recbole_hellm.config.yaml_files import packaged
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import ConfigError, DataError, FeatureError, RunError
from recbole_hellm.runs import running, training
from recbole_hellm.runs.results import RunResult
from recbole_hellm.training.trainer import RunTrainer

MASKINGS = ("seen", "train", "none")


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


@pytest.fixture
def train(quick: dict[str, Any]) -> Callable[..., RunResult]:
    return lambda model, **options: run(model, "tiny", **quick | {"learning_rate": 0.01} | options)


def outcome(result: RunResult) -> dict[str, Any]:
    """Everything of a run that must repeat, to the last digit."""
    kept = ("test", "valid", "best_epoch", "epochs", "split", "candidates", "users", "items")
    tables = {
        path.name: pd.read_parquet(path).to_dict("list")
        for path in sorted(result.path.glob("*.parquet"))
    }
    weights = torch.load(result.path / "best.pt", weights_only=True)["model"]
    arrays = {name: value.double().flatten().tolist() for name, value in weights.items()}
    return {key: result.record[key] for key in kept} | {"tables": tables, "weights": arrays}


@pytest.fixture
def kill(train: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a model that dies when `dies_in` calls `method` for `epoch` (from 0)."""

    def run_and_die(
        model: str, method: str, epoch: int, dies_in: str | None = None, **options: Any
    ) -> None:
        original = getattr(RunTrainer, method)

        def dying(self: Any, at: int, *arguments: Any, **named: Any) -> Any:
            if self.config["model"] == (dies_in or model) and at == epoch:
                raise Killed
            return original(self, at, *arguments, **named)

        with monkeypatch.context() as patched:
            patched.setattr(RunTrainer, method, dying)
            with pytest.raises(Killed):
                train(model, **options)

    return run_and_die


# What a run leaves -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpr(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """One run that several tests look at."""
    return run(
        "BPR",
        "tiny",
        data_path=str(tiny_data),
        runs_dir=str(tmp_path_factory.mktemp("bpr")),
        show_progress=False,
        use_gpu=False,
        threads=1,
        epochs=3,
        eval_step=2,
        save_topk=4,
        embedding_size=8,
    )


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


@pytest.mark.parametrize("masking", MASKINGS)
def test_ranks_are_those_of_the_metrics(
    bpr: RunResult, interactions: pd.DataFrame, masking: str
) -> None:
    ranks = pd.read_parquet(bpr.path / f"ranks-{masking}.parquet")
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"])
    groups = ordered.groupby("user_id")["item_id"].agg(list)
    lists = groups[groups.str.len() >= 3]
    assert ranks["user"].tolist() == lists.index.tolist()
    assert ranks["item"].tolist() == [items[-1] for items in lists]
    for row, items in zip(ranks.itertuples(), lists, strict=True):
        hidden = {"seen": items[:-1], "train": items[:-2], "none": []}[masking]
        assert row.candidates == 30 - len(set(hidden) - {items[-1]})
    assert not ranks["tied"].any()
    places = ranks["higher"] + 1
    assert bpr.metrics("test", masking)["recall@10"] == pytest.approx((places <= 10).mean())
    gains = [1 / math.log2(place + 1) if place <= 20 else 0 for place in places]
    assert bpr.metrics("test", masking)["ndcg@20"] == pytest.approx(np.mean(gains))


def test_saved_lists_agree_with_the_ranks(bpr: RunResult) -> None:
    lists = pd.read_parquet(bpr.path / "topk-seen.parquet")
    ranks = pd.read_parquet(bpr.path / "ranks-seen.parquet").set_index("user")
    assert lists["place"].tolist() == [1, 2, 3, 4] * 36
    for user, rows in lists.groupby("user"):
        place = ranks.loc[user, "higher"] + 1
        target = ranks.loc[user, "item"]
        assert (rows["item"].tolist().index(target) + 1 if place <= 4 else None) == (
            place if place <= 4 else None
        )


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


def test_tensorboard_shows_training_validation_test_cost_and_settings(bpr: RunResult) -> None:
    events = EventAccumulator(str(bpr.path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        "loss/total",
        "valid/ndcg@10",
        "valid/recall@20",
        "test-seen/ndcg@10",
        "test-train/ndcg@10",
        "test-none/recall@20",
        "optimisation/learning_rate",
        "cost/seconds_per_epoch",
        "cost/batches_per_second",
        "cost/peak_memory_mb",
    }
    assert [event.step for event in events.Scalars("loss/total")] == [0, 1, 2]
    assert [event.step for event in events.Scalars("valid/ndcg@10")] == [1, 2]
    (test,) = events.Scalars("test-seen/ndcg@10")
    assert test.value == pytest.approx(bpr.metrics()["ndcg@10"])
    session = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for name in (b"embedding_size", b"learning_rate", b"mask_history", b"seed"):
        assert name in session
    assert b"runs_dir" not in session


def test_the_test_split_is_ranked_by_the_weights_that_validation_chose(
    train: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first epoch is declared the best, so the test must be that of a one-epoch run."""
    once = train("BPR", epochs=1)
    original, phases = RunTrainer.evaluate_phase, []

    def worse_each_time(self: Any, phase: str, *given: Any, **named: Any) -> Any:
        found = original(self, phase, *given, **named)
        phases.append(phase)
        if phase == "valid":
            found.metrics["seen"]["ndcg@10"] = 1 / len(phases)
        return found

    monkeypatch.setattr(RunTrainer, "evaluate_phase", worse_each_time)
    longer = train("BPR", epochs=3, runs_dir=str(tmp_path / "longer"))
    assert (longer.record["best_epoch"], longer.record["epochs"]) == (1, 3)
    assert longer.record["test"] == once.record["test"]
    assert phases == ["valid"] * 3 + ["test"]  # the test split is scored once


def test_nothing_is_written_elsewhere(
    train: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    train("Pop")
    assert list(elsewhere.iterdir()) == []


def test_checkpoints_are_safe(bpr: RunResult) -> None:
    for name in ("last.pt", "best.pt"):
        torch.load(bpr.path / name, weights_only=True)


def test_a_folder_of_runs_can_be_moved(
    train: Callable[..., RunResult], small_model: dict[str, Any], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    result = train("HeLLM", **small_model, epochs=1, runs_dir=str(first))
    shutil.move(first, tmp_path / "moved")
    path = tmp_path / "moved" / result.path.relative_to(first)
    found = load_run(path)
    assert [stage.record["model"] for stage in found.stages] == ["HeLLMPre", "SASRec"]
    assert found.record == result.record


def test_unfinished_runs_are_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no finished run \(metrics.json is missing\)"):
        load_run(tmp_path)


# Repetition and kills ----------------------------------------------------------------------------

MODELS = ["BPR", "SASRec", "HeLLMPre", "HeLLM", "CoLLM", "RecVAE", "MultiVAE", "LDiffRec"]


@pytest.mark.parametrize("model", MODELS)
def test_a_killed_and_resumed_run_is_the_same_to_the_last_digit(
    train: Callable[..., RunResult],
    small_variant: Callable[[str], dict[str, Any]],
    kill: Callable[..., None],
    tmp_path: Path,
    model: str,
) -> None:
    options = {"epochs": 3, "stopping_step": 9, "train_batch_size": 16, "MAX_ITEM_LIST_LENGTH": 6}
    options |= {"runs_dir": str(tmp_path / "cut")}
    if model in ("HeLLM", "CoLLM"):
        options = small_variant(model) | options
    if model == "HeLLMPre":
        options |= {"contrast": "batch", "contrast_anchors": 8, "knn_k": 3}
    whole = train(model, **options | {"runs_dir": str(tmp_path / "whole")})
    # Once in the middle of an epoch, once after the best weights were written and before the state.
    for method, epoch in (("_log_epoch", 1), ("_save_checkpoint", 2)):
        kill(model, method, epoch, **options, resume=True)
    resumed = train(model, **options, resume=True)
    assert outcome(resumed) == outcome(whole)
    again = train(model, **options | {"runs_dir": str(tmp_path / "again")})
    assert outcome(again) == outcome(whole)


@pytest.mark.parametrize("targets", ["every", "last"])
def test_a_token_limit_changes_memory_only(
    train: Callable[..., RunResult], small_model: dict[str, Any], targets: str
) -> None:
    still = {
        "backbone_dropout": 0.0,
        "prefix_dropout": 0.0,
        "learner": "sgd",
        "learning_rate": 0.05,
    }
    options = small_model | still | {"targets": targets}
    whole, cut = train("HeLLM", **options), train("HeLLM", **options, max_tokens=6)
    assert train("HeLLM", **options, max_tokens=None).path == whole.path != cut.path
    weights = [outcome(run)["weights"] for run in (cut, whole)]
    for name, values in weights[1].items():
        assert weights[0][name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    costs = [run.record["cost"] for run in (cut, whole)]
    assert all(0 <= cost["padding_share"] < 1 for cost in costs)
    if targets == "last":  # packed rows have room for more than such a part holds
        assert costs[0]["padding_share"] <= costs[1]["padding_share"]
    assert all(cost["tokens_per_second"] > 0 for cost in costs)
    assert "padding_share" not in whole.stages[1].record["cost"]


def test_parts_of_a_batch_repeat_after_a_kill(
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    kill: Callable[..., None],
    tmp_path: Path,
) -> None:
    options = small_model | {"max_tokens": 6, "epochs": 3}
    whole = train("HeLLM", **options, runs_dir=str(tmp_path / "whole"))
    kill("HeLLM", "_log_epoch", 1, **options)
    resumed = train("HeLLM", **options, resume=True)
    assert outcome(resumed) == outcome(whole)
    for name in ("padding_share", "parameters"):
        assert resumed.record["cost"][name] == whole.record["cost"][name]


def test_a_kill_in_a_stage_changes_nothing(
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    kill: Callable[..., None],
    tmp_path: Path,
) -> None:
    options = small_model | {"SASRec.epochs": 2}
    whole = train("HeLLM", **options, runs_dir=str(tmp_path / "whole"))
    kill("HeLLM", "_log_epoch", 1, dies_in="SASRec", **options)
    resumed = train("HeLLM", **options, resume=True)
    assert outcome(resumed) == outcome(whole)
    assert [outcome(stage) for stage in resumed.stages] == [outcome(s) for s in whole.stages]


def test_a_dataset_that_draws_numbers_draws_the_same(
    train: Callable[..., RunResult], tmp_path: Path
) -> None:
    """DIEN's dataset draws a negative item for every interaction while it is loaded."""
    options = {"epochs": 1, "MAX_ITEM_LIST_LENGTH": 3}
    first, second = (train("DIEN", **options, runs_dir=str(tmp_path / name)) for name in "ab")
    assert outcome(first) == outcome(second)


def test_another_seed_gives_another_run(train: Callable[..., RunResult]) -> None:
    first, second = train("BPR"), train("BPR", seed=7)
    assert first.path != second.path
    assert first.record["test"] != second.record["test"]


def test_without_resume_a_killed_run_starts_anew(
    train: Callable[..., RunResult], kill: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill("BPR", "_log_epoch", 1)
    resumed: list[Any] = []
    monkeypatch.setattr(RunTrainer, "resume_checkpoint", lambda *given: resumed.append(given))
    train("BPR")
    assert not resumed


def test_force_trains_anew_even_with_resume(
    train: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train("BPR")
    (first.path / "left.over").write_text("")
    resumed: list[Any] = []
    monkeypatch.setattr(RunTrainer, "resume_checkpoint", lambda *given: resumed.append(given))
    second = train("BPR", force=True, resume=True)
    assert not resumed
    assert not (first.path / "left.over").exists()
    assert second.record["test"] == first.record["test"]


def test_a_truncated_checkpoint_is_told(
    train: Callable[..., RunResult], kill: Callable[..., None], quick: dict[str, Any]
) -> None:
    kill("BPR", "_log_epoch", 1)
    (last,) = Path(quick["runs_dir"]).rglob("last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"last.pt is damaged; run again with --force"):
        train("BPR", resume=True)
    assert train("BPR", resume=True, force=True).record["epochs"] == 2


# The cache ---------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are trained, in order."""
    names: list[str] = []
    original = running.train

    def noting(config: Any, *given: Any) -> Any:
        found = original(config, *given)
        names.append(config["model"])
        return found

    monkeypatch.setattr(running, "train", noting)
    return names


def test_finished_runs_are_found_again(
    train: Callable[..., RunResult], trained: list[str], quick: dict[str, Any], tmp_path: Path
) -> None:
    first = train("BPR")
    moved = tmp_path / "data"
    shutil.copytree(quick["data_path"], moved)
    for display in (
        {"show_progress": True},
        {"data_path": str(moved)},
        {"eval_users": 3},
        {"save_topk": 5},
        {"resume": True},
        {"text_encoder": "tfidf"},
    ):
        assert train("BPR", **display).path == first.path
    assert trained == ["BPR"]
    assert train("BPR", runs_dir=str(tmp_path / "b")).path.name == first.path.name
    assert trained == ["BPR", "BPR"]


def test_finished_runs_get_the_lists_that_they_lack(
    train: Callable[..., RunResult], trained: list[str], tmp_path: Path
) -> None:
    first = train("BPR")
    metrics = (first.path / "metrics.json").read_bytes()
    lists = first.path / "topk-seen.parquet"
    assert not lists.exists()
    for length in (3, 5):
        train("BPR", save_topk=length)
        whole = train("BPR", save_topk=length, runs_dir=str(tmp_path / f"of{length}"))
        pd.testing.assert_frame_equal(
            pd.read_parquet(lists), pd.read_parquet(whole.path / lists.name)
        )
    written = lists.stat().st_mtime_ns
    train("BPR", save_topk=4)  # shorter ones are in it
    assert lists.stat().st_mtime_ns == written
    assert (first.path / "metrics.json").read_bytes() == metrics
    with pytest.raises(ConfigError, match="lower save_topk"):
        train("BPR", save_topk=31)
    assert trained == ["BPR"] * 3
    lists.unlink()
    (first.path / "best.pt").unlink()
    with pytest.raises(RunError, match=r"best.pt is missing"):
        train("BPR", save_topk=3)


def test_a_default_that_is_spelt_out_changes_nothing(
    train: Callable[..., RunResult], trained: list[str]
) -> None:
    first = train("HeLLMPre", knn_k=3, epochs=1)
    same = {"tau": 0.5, "weight_decay": 0, "betas": [0.9, 0.999]}
    assert train("HeLLMPre", knn_k=3, epochs=1, **same) == first
    assert trained == ["HeLLMPre"]


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_size": 4},
        {"train_batch_size": 11},
        {"mask_history": "none"},
        {"epochs": 1},
        {"weight_decay": 0.1},
        {"topk": [5, 10]},
    ],
)
def test_what_changes_the_result_changes_the_run(
    train: Callable[..., RunResult], change: dict[str, Any]
) -> None:
    assert train("BPR").path != train("BPR", **change).path


def test_other_training_data_is_another_run(
    train: Callable[..., RunResult], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    """The targets are the same, an early item of one user is not."""
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"]).reset_index(drop=True)
    ordered.loc[ordered.index[ordered["user_id"] == "u39"][0], "item_id"] = "i29"
    make_dataset(tmp_path / "other/tiny", ordered)
    first, second = train("Pop"), train("Pop", data_path=str(tmp_path / "other"))
    assert first.record["split"] == second.record["split"]
    assert first.path != second.path


def test_features_are_part_of_a_run_that_reads_them(
    train: Callable[..., RunResult], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    from recbole_hellm.data.features.store import save_features

    make_dataset(tmp_path / "other/tiny", interactions)
    items = sorted(interactions["item_id"].unique())
    save_features(tmp_path / "other/tiny", "text", "toy", items, np.eye(30))
    data = {"data_path": str(tmp_path / "other")}
    assert train("Pop").path == train("Pop", **data).path
    small = {"epochs": 1, "knn_k": 3}
    assert train("HeLLMPre", **small).path != train("HeLLMPre", **small, **data).path


def test_stages_are_trained_once_and_change_nothing(
    train: Callable[..., RunResult],
    trained: list[str],
    small_model: dict[str, Any],
    tmp_path: Path,
) -> None:
    first = train("HeLLM", **small_model)
    assert trained == ["HeLLMPre", "SASRec", "HeLLM"]
    assert train("HeLLM", **small_model).path == first.path
    forced = train("HeLLM", **small_model, force=True)
    assert trained[3:] == ["HeLLM"]  # stages found, the model trained again
    assert outcome(forced) == outcome(first)
    other = train("HeLLM", **small_model, prefix="none", epochs=1)
    assert trained[4:] == ["HeLLM"]
    assert [stage.path for stage in other.stages] == [stage.path for stage in first.stages]
    changed = train("HeLLM", **small_model | {"HeLLMPre.tau": 0.3})
    assert trained[5:] == ["HeLLMPre", "HeLLM"]
    assert changed.path != first.path
    assert changed.stages[1].path == first.stages[1].path
    own = {key[7:]: value for key, value in small_model.items() if key.startswith("SASRec.")}
    default = packaged("model", "SASRec.yaml")["learning_rate"]
    alone = train("SASRec", **own, MAX_ITEM_LIST_LENGTH=6, learning_rate=default)
    assert alone.path == first.stages[1].path


def test_variants_stand_on_the_stages_that_are_there(
    train: Callable[..., RunResult],
    trained: list[str],
    small_variant: Callable[[str], dict[str, Any]],
) -> None:
    def of(model: str) -> dict[str, Path]:
        result = train(model, **small_variant(model), epochs=1)
        assert (result.path.parent.name, result.record["model"]) == (model, model)
        return {stage.record["model"]: stage.path for stage in result.stages}

    sizes = small_variant("CoLLM")
    own = {key[9:]: value for key, value in sizes.items() if key.startswith("LightGCN.")}
    default = packaged("model", "LightGCN.yaml")["learning_rate"]
    alone = train("LightGCN", **own, MAX_ITEM_LIST_LENGTH=6, learning_rate=default)
    assert of("CoLLM") == {"LightGCN": alone.path}
    assert trained == ["LightGCN", "CoLLM"]
    stages = of("HeLLM")
    assert trained[2:] == ["HeLLMPre", "SASRec", "HeLLM"]
    assert of("HeLLM-wo-GNN_PEFT") == of("HeLLM-wo-GNN_ID") == stages
    assert of("HeLLM-wo-Seq_ID") == {"HeLLMPre": stages["HeLLMPre"]}
    assert of("LLaRA") == {"SASRec": stages["SASRec"]}
    assert of("LLaRA") == {"SASRec": stages["SASRec"]}
    assert trained[5:] == ["HeLLM-wo-GNN_PEFT", "HeLLM-wo-GNN_ID", "HeLLM-wo-Seq_ID", "LLaRA"]


def test_a_variant_can_be_a_stage(
    train: Callable[..., RunResult], small_model: dict[str, Any], trained: list[str]
) -> None:
    stage = "HeLLMPre-wo-U2U"
    sizes = {key.replace("HeLLMPre.", f"{stage}."): value for key, value in small_model.items()}
    result = train("HeLLM-wo-Seq_ID", graph_model=stage, **_without(sizes, "SASRec."), epochs=1)
    assert trained == [stage, "HeLLM-wo-Seq_ID"]
    assert [found.record["model"] for found in result.stages] == [stage]


def _without(sizes: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key: value for key, value in sizes.items() if not key.startswith(prefix)}


def test_variants_differ_from_their_base(
    train: Callable[..., RunResult], small_model: dict[str, Any]
) -> None:
    """The same seed and data, so only the variant's settings make another loss."""
    pre = {"epochs": 1, "knn_k": 3, "embedding_size": 8, "train_batch_size": 16}
    names = ["HeLLMPre", "HeLLMPre-wo-U2U", "HeLLMPre-wo-I2I", "HeLLMPre-wo-CL"]
    weights = {name: outcome(train(name, **pre))["weights"] for name in names}
    assert set(weights["HeLLMPre-wo-CL"]) == set(weights["HeLLMPre"])
    assert weights["HeLLMPre-wo-CL"] != weights["HeLLMPre"]
    for side, name in (("user", "HeLLMPre-wo-U2U"), ("item", "HeLLMPre-wo-I2I")):
        gone = set(weights["HeLLMPre"]) - set(weights[name])
        assert gone == {f"network.{side}_hyper_table"}


def test_models_without_use_for_features_need_none(
    train: Callable[..., RunResult],
    small_variant: Callable[[str], dict[str, Any]],
    interactions: pd.DataFrame,
    make_dataset: Any,
    tmp_path: Path,
) -> None:
    make_dataset(tmp_path / "bare/tiny", interactions)
    shutil.rmtree(tmp_path / "bare/tiny/features")
    bare = {"data_path": str(tmp_path / "bare"), "epochs": 1}
    for model in ("CoLLM", "LLaRA"):
        found = train(model, **small_variant(model) | bare)
        assert found.path == train(model, **small_variant(model), epochs=1).path
    train("HeLLMPre-wo-I2I", **bare)
    for model in ("HeLLMPre-wo-U2U", "HeLLM-wo-GNN_PEFT"):
        with pytest.raises(FeatureError, match="neither item texts"):
            train(model, **bare)


def test_stages_get_the_keys_of_the_dataset(
    quick: dict[str, Any], small_model: dict[str, Any], tmp_path: Path, interactions: pd.DataFrame
) -> None:
    from recbole_hellm.data.features.store import save_features

    names = {"user_id": "user", "item_id": "thing", "timestamp": "when"}
    folder = tmp_path / "named"
    folder.mkdir()
    header = ["user:token", "thing:token", "when:float"]
    interactions.rename(columns=names).to_csv(
        folder / "named.inter", sep="\t", index=False, header=header
    )
    items = sorted(interactions["item_id"].unique())
    save_features(folder, "text", "toy", items, np.random.default_rng(0).normal(size=(30, 4)))
    fields = {"USER_ID_FIELD": "user", "ITEM_ID_FIELD": "thing", "TIME_FIELD": "when"}
    options = quick | small_model | fields | {"data_path": str(tmp_path), "epochs": 1}
    result = run("HeLLM", "named", **options)
    assert {part.record["users"] for part in (result, *result.stages)} == {36}


# Mistakes are told before anything is trained ----------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "error", "sentence"),
    [
        ("HeLLM", {"prefix_length": 0}, ConfigError, "prefix_length=0 must be at least 1"),
        ("HeLLM", {"variant": "foo"}, ConfigError, "variant='foo' is not allowed"),
        ("HeLLM", {"graph_model": None}, ConfigError, "needs the graph embeddings"),
        ("HeLLM", {"SASRec.n_heads": 3, "topk": [9]}, ConfigError, "valid_metric"),
        ("HeLLM", {"HeLLMPre.tau": "abc"}, ConfigError, "tau='abc' must be a number"),
        ("HeLLM", {"features": ["text-none"]}, Exception, "text-none.npy does not exist"),
        ("HeLLM", {"metrics": ["GAUC", "NDCG"]}, ConfigError, "cannot be computed"),
        ("SASRec", {"hidden_act": "foo"}, ConfigError, "RecBole cannot build SASRec"),
        ("SASRec", {"n_heads": 3}, ConfigError, "RecBole cannot build SASRec"),
        ("KGAT", {}, DataError, "tiny.kg"),
    ],
)
def test_mistakes_are_told_before_training(
    train: Callable[..., RunResult],
    trained: list[str],
    model: str,
    options: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        train(model, **options)
    assert trained == []


def test_a_missing_package_is_told(
    train: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def need(*_: Any) -> None:
        import a_package_that_nobody_has  # noqa: F401

    monkeypatch.setattr(training, "build_model", need)
    with pytest.raises(ConfigError, match="'BPR' needs the package 'a_package_that_nobody_has'"):
        train("BPR")


def test_short_users_are_told(
    train: Callable[..., RunResult], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="recbole_hellm"):
        result = train("Pop")
    assert "4 users of 'tiny' have fewer than 3 interactions" in caplog.text
    assert result.record["users"] == 36


# RecBole's models by name ------------------------------------------------------------------------

SMOKE = (
    "Pop",
    "ItemKNN",
    "BPR",
    "LightGCN",
    "SASRec",
    "GRU4Rec",
    "NGCF",
    "SGL",
    "MultiVAE",
    "NARM",
    "BERT4Rec",
    "FPMC",
    "NeuMF",
    "DMF",
    "EASE",
    "SLIMElastic",
    "RecVAE",
    "STAMP",
    "SHAN",
    "NextItNet",
    "FM",
    "DeepFM",
    "DIN",
    "CDAE",
    "SimpleX",
    "TransRec",
    "DiffRec",
    "NCEPLRec",
)


@pytest.mark.parametrize("model", SMOKE)
def test_recboles_models_run_by_name(train: Callable[..., RunResult], model: str) -> None:
    result = train(model, epochs=1, MAX_ITEM_LIST_LENGTH=10)
    metrics = result.metrics()
    assert 0 < metrics["ndcg@20"] < 1
    assert result.record["users"] == 36
    assert (result.record["split"], result.record["candidates"]) == ORIGIN.setdefault(
        "hashes", (result.record["split"], result.record["candidates"])
    )


ORIGIN: dict[str, Any] = {}


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_sequential_models_train_with_sampled_negatives(
    train: Callable[..., RunResult], model: str
) -> None:
    assert train(model, loss_type="BPR", epochs=1).metrics()["ndcg@20"] > 0


@pytest.mark.parametrize("model", ["CKE", "CFKG"])
def test_knowledge_graph_models_run_by_name(
    train: Callable[..., RunResult],
    model: str,
    tmp_path: Path,
    interactions: pd.DataFrame,
    make_dataset: Any,
    kill: Callable[..., None],
) -> None:
    folder = tmp_path / "data/tiny"
    make_dataset(folder, interactions)
    items = sorted(interactions["item_id"].unique())
    links = "\n".join(f"{item}\te{item}" for item in items)
    (folder / "tiny.link").write_text(f"item_id:token\tentity_id:token\n{links}\n")
    triples = "\n".join(f"e{item}\tr{row % 2}\tx{row % 5}" for row, item in enumerate(items))
    (folder / "tiny.kg").write_text(f"head_id:token\trelation_id:token\ttail_id:token\n{triples}\n")
    data = {"data_path": str(folder.parent), "epochs": 2}
    whole = train(model, **data)
    cut = data | {"runs_dir": str(tmp_path / "cut")}
    kill(model, "_log_epoch", 1, **cut)
    assert train(model, **cut, resume=True).record["test"] == whole.record["test"]
    assert whole.record["split"] == train("Pop").record["split"]


def test_learning_beats_chance_and_popularity(train: Callable[..., RunResult]) -> None:
    """Users walk along a circle, so the order of items tells the next one."""
    pop = train("Pop").metrics("test", "none")["ndcg@10"]
    found = train("SASRec", epochs=30, hidden_size=32, n_layers=1, hidden_dropout_prob=0.1)
    assert found.metrics("test", "none")["ndcg@10"] > max(2 * pop, 0.25)


# Without RecBole ---------------------------------------------------------------------------------


def test_the_method_can_be_used_without_recbole() -> None:
    program = """
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "recbole":
                    raise ImportError("recbole is blocked")

        sys.meta_path.insert(0, Blocker())
        import recbole_hellm
        import recbole_hellm.graph.bipartite, recbole_hellm.graph.hypergraph
        import recbole_hellm.graph.knn
        import recbole_hellm.models.losses
        import recbole_hellm.models.llm, recbole_hellm.models.llm.hellm
        assert "recbole" not in sys.modules
        try:
            recbole_hellm.run
        except ImportError:
            print("ready")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (found.returncode, found.stdout) == (0, "ready\n"), found.stderr
