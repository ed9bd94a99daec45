"""Training of runs: repetition, kills and resuming."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.runs import outcome

from recbole_hellm.errors import ConfigError, DataError, HellmError, RunError
from recbole_hellm.runs import training
from recbole_hellm.runs.results import RunResult
from recbole_hellm.training.trainer import RunTrainer


def test_checkpoints_are_safe(bpr: RunResult) -> None:
    for name in ("last.pt", "best.pt"):
        torch.load(bpr.path / name, weights_only=True)


MODELS = ["BPR", "SASRec", "HeLLMPre", "HeLLM", "CoLLM", "RecVAE", "MultiVAE", "LDiffRec", "LINE"]


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
    with pytest.raises(RunError, match=r"last.pt is damaged .*train the run again with --force"):
        train("BPR", resume=True)
    assert train("BPR", resume=True, force=True).record["epochs"] == 2


def test_a_missing_package_is_told(
    train: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def need(*_: Any) -> None:
        import a_package_that_nobody_has  # noqa: F401

    monkeypatch.setattr(training, "build_model", need)
    with pytest.raises(ConfigError, match="'BPR' needs the package 'a_package_that_nobody_has'"):
        train("BPR")


def own_keys(small_model: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in small_model.items() if "." not in key}


def test_a_stages_table_from_a_file_gives_the_run_of_the_stage(
    exported: tuple[RunResult, dict[str, str]],
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    tmp_path: Path,
    interactions: pd.DataFrame,
    make_dataset: Any,
) -> None:
    result, files = exported
    # Neither stages nor features are needed.
    make_dataset(tmp_path / "bare/tiny", interactions)
    shutil.rmtree(tmp_path / "bare/tiny/features")
    fresh = {"runs_dir": str(tmp_path / "fresh"), "data_path": str(tmp_path / "bare")}
    small = own_keys(small_model)
    imported = train("HeLLM", **small, **files, **fresh, mask_history="train")
    for key in ("test", "valid", "best_epoch", "split"):
        assert imported.record[key] == result.record[key]
    assert imported.stages == ()
    assert imported.record["stages"] == {}
    assert set(imported.record["imported"]) == {"graph", "sequence"}
    assert imported.record["imported"]["graph"]["file"] == "HeLLMPre_item_embeddings.pt"
    assert [path.name for path in (tmp_path / "fresh/tiny").iterdir()] == ["HeLLM"]
    # Restored without the files.
    for path in files.values():
        Path(path).unlink()
    assert imported.evaluate() == result.record["test"]


def test_one_stage_may_come_from_a_file(
    exported: tuple[RunResult, dict[str, str]],
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
) -> None:
    result, files = exported
    small = {key: value for key, value in small_model.items() if "HeLLMPre." not in key}
    imports = {"graph_embeddings": files["graph_embeddings"], "mask_history": "train"}
    imported = train("HeLLM", **small, **imports)
    assert imported.record["test"] == result.record["test"]
    assert [stage.path for stage in imported.stages] == [result.stages[1].path]
    assert list(imported.record["imported"]) == ["graph"]
    # What the stage would have been makes no difference.
    for model in ("LightGCN", None):
        assert train("HeLLM", **small, **imports, graph_model=model).path == imported.path


def test_files_that_cannot_be_used_are_told_before_training(
    exported: tuple[RunResult, dict[str, str]],
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    tmp_path: Path,
) -> None:
    small = {key: value for key, value in small_model.items() if "HeLLMPre." not in key}
    wrong = tmp_path / "wrong.pt"
    fresh = tmp_path / "fresh"

    def fails(match: str, error: type[HellmError], **options: Any) -> None:
        overrides = {"graph_embeddings": str(wrong), "runs_dir": str(fresh)}
        with pytest.raises(error, match=match):
            train("HeLLM", **small | overrides | options)
        assert not list(fresh.rglob("best.pt"))

    fails("graph_embeddings=.* cannot be read", DataError)
    torch.save(torch.ones(30, 5), wrong)
    fails("gives 5-wide item embeddings and graph_dim is 8; set --graph_dim=5", ConfigError)
    torch.save(torch.ones(29, 8), wrong)
    fails("has 29 rows, and 30 items need 30, or 31 with padding first", DataError)
    torch.save(torch.ones(30, 8), wrong)
    unused = {"prefix": "none", "item_inputs": ["sequence"]}
    fails("graph_embeddings is given, and HeLLM makes no use of graph", ConfigError, **unused)
    fails("is for a model that is not run here", ConfigError, **{"HeLLMPre.tau": 0.3})
    fails("graph_embeddings=3 must be a text", ConfigError, graph_embeddings=3)
