from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.benchmark.tables import comparison, model_list, model_settings
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.quick_start import RunResult


def result(
    model: str, value: float, stages: tuple[RunResult, ...] = (), **fields: Any
) -> RunResult:
    metrics = {"recall@10": value, "ndcg@10": value / 2}
    record = {
        "model": model,
        "dataset": "tiny",
        "split": "abc" * 20,
        "candidates": "def" * 20,
        "masking": "seen",
        "users": 36,
        "items": 30,
        "best_epoch": 4,
        "cost": {"train_seconds": 12.3},
        "test": {name: dict(metrics) for name in ("seen", "train", "none")},
    }
    return RunResult(Path("runs") / model, record | fields, stages)


def test_one_row_a_run_with_stages_before_their_model() -> None:
    stage = result("SASRec", 0.25)
    table = comparison([result("Pop", 0.0125), result("HeLLM", 0.5, (stage,)), stage])
    lines = table.splitlines()
    assert lines[0] == "Dataset tiny: 36 test users, 30 candidate items, split abcabcabcabc"
    first = lines.index("Test, mask_history=seen")
    assert lines[first + 1].split() == ["model", "recall@10", "ndcg@10", "epoch", "train", "s"]
    assert [line.split() for line in lines[first + 3 : first + 6]] == [
        ["Pop", "0.0125", "0.0063", "4", "12"],
        ["SASRec", "0.2500", "0.1250", "4", "12"],
        ["HeLLM", "0.5000", "0.2500", "4", "12"],
    ]
    assert "Test, mask_history=none (same checkpoint)" in lines
    assert "Test, mask_history=train (same checkpoint)" in lines
    assert lines[-3:] == ["  Pop: runs/Pop", "  SASRec: runs/SASRec", "  HeLLM: runs/HeLLM"]


def test_the_runs_own_masking_comes_first_and_common_metrics_only() -> None:
    other = result("B", 0.5, masking="none")
    other.record["test"]["none"]["itemcoverage@10"] = 0.9
    table = comparison([result("A", 0.25, masking="none"), other])
    assert table.index("mask_history=none") < table.index("mask_history=seen")
    assert "itemcoverage" not in table


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "Beauty"),
        ("split", "other"),
        ("candidates", "other"),
        ("masking", "train"),
        ("users", 35),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(key: str, value: Any) -> None:
    with pytest.raises(RunError, match=rf"^These runs differ in {key} \(.*cannot be compared\.$"):
        comparison([result("A", 0.25), result("B", 0.5, **{key: value})])
    with pytest.raises(RunError, match=f"differ in {key}"):
        comparison([result("A", 0.25, (result("B", 0.5, **{key: value}),))])


def test_models_are_listed() -> None:
    table = model_list()
    for name in ("HeLLMPre", "HeLLM", "LightGCN", "SASRec", "BERT4Rec", "FM"):
        assert name in table


def test_settings_of_a_model_are_listed_with_their_values() -> None:
    lines = dict(line.split(": ", 1) for line in model_settings("SASRec").splitlines())
    assert (lines["n_heads"], lines["loss_type"]) == ("2", "CE")
    lines = dict(line.split(": ", 1) for line in model_settings("HeLLMPre").splitlines())
    assert {"tau", "knn_k", "embedding_size"} <= set(lines)
    with pytest.raises(ConfigError, match="Unknown model 'Foo'"):
        model_settings("Foo")
