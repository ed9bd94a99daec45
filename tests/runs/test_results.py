"""Finished runs: loading, moving and scoring again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_hellm import load_run
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.results import RunResult


def test_restore_gives_the_model(train: Callable[..., RunResult]) -> None:
    result = train("BPR")
    model = result.restore()
    assert type(model).__name__ == "BPR"
    assert not model.training
    state = torch.load(result.path / "best.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_only_two_splits_can_be_scored(train: Callable[..., RunResult]) -> None:
    with pytest.raises(ConfigError, match="phase='train' is not allowed; use one of valid, test"):
        train("BPR").evaluate("train")


def test_a_folder_of_runs_stands_for_the_newest(
    train: Callable[..., RunResult], caplog: pytest.LogCaptureFixture
) -> None:
    first = train("BPR", epochs=1, seed=1)
    assert load_run(first.path.parent).path == first.path
    assert "newest" not in caplog.text
    second = train("BPR", epochs=1, seed=2)
    with caplog.at_level("INFO"):
        assert load_run(first.path.parent).path == second.path
    assert f"{second.path} is the newest of 2 finished runs" in caplog.text
    os.utime(first.path / "metrics.json")
    assert load_run(first.path.parent).path == first.path
    with pytest.raises(RunError, match="holds no finished run"):
        load_run(first.path.parent.parent)  # models, not runs


def test_a_folder_of_runs_can_be_moved_and_a_stage_removed(
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = tmp_path / "first"
    result = train("HeLLM", **small_model, epochs=1, runs_dir=str(first))
    shutil.move(first, tmp_path / "moved")
    path = tmp_path / "moved" / result.path.relative_to(first)
    moved = load_run(path)
    assert [stage.record["model"] for stage in moved.stages] == ["HeLLMPre", "SASRec"]
    assert moved.record == result.record
    assert "left out" not in caplog.text
    graph, sequence = (stage.path for stage in moved.stages)
    (graph / "metrics.json").unlink()
    (sequence / "metrics.json").unlink()
    (sequence / "metrics.json").mkdir()
    assert not load_run(path).stages
    for stage in (graph, sequence):
        assert f"{stage} is left out: its metrics.json is missing" in caplog.text
    caplog.clear()
    shutil.rmtree(graph)
    shutil.rmtree(sequence)
    assert not load_run(path).stages
    assert "left out" not in caplog.text


def test_unfinished_runs_are_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no finished run \(metrics.json is missing\)"):
        load_run(tmp_path)


def test_a_run_among_its_own_stages_is_told(train: Callable[..., RunResult]) -> None:
    first, second = train("BPR", epochs=1), train("Pop")
    for one, other in ((first, first), (first, second), (second, first)):
        stages = {"graph": os.path.relpath(other.path, one.path)}
        RunDirectory(one.path).write_record(one.record | {"stages": stages})
        if one.path == other.path or one is second:
            with pytest.raises(RunError, match=r"metrics.json names a run among its stages that"):
                load_run(one.path)


def test_what_a_killed_process_was_removing_is_no_run(train: Callable[..., RunResult]) -> None:
    first = train("BPR", epochs=1)
    left = first.path.with_name(f".{first.path.name}.old")
    shutil.copytree(first.path, left)
    os.utime(left / "metrics.json")
    assert load_run(first.path.parent).path == first.path


def test_a_run_of_an_earlier_version_is_read_and_told_once(
    train: Callable[..., RunResult], caplog: pytest.LogCaptureFixture
) -> None:
    result = train("BPR", epochs=1)
    (result.path / "metrics.json").write_text(json.dumps(result.record))
    with caplog.at_level("INFO"):
        assert load_run(result.path) == load_run(result.path) == result
    assert caplog.text.count("has no checksums, since an earlier version wrote it") == 1
    assert result.evaluate() == result.record["test"]


# In notebooks ------------------------------------------------------------------------------------


def test_a_run_is_shown_in_a_line(train: Callable[..., RunResult]) -> None:
    result = train("BPR")
    shown = repr(result)
    value = result.metrics()["recall@10"]
    assert shown.startswith("<BPR on tiny, seed ")
    assert f"recall@10 {value:.4f}" in shown
    assert str(result.path) in shown
    assert len(shown) < 200 + len(str(result.path))


def test_metrics_are_a_frame(train: Callable[..., RunResult]) -> None:
    result = train("BPR")
    frame = result.to_frame()
    assert list(frame) == ["model", "seed", "phase", "masking", "metric", "value"]
    keys = ["phase", "masking", "metric"]
    assert not frame.duplicated(keys).any()
    values = frame.set_index(keys)["value"]
    assert values["test", "none", "ndcg@10"] == result.metrics("test", "none")["ndcg@10"]
    assert values["valid", "seen", "mrr@10"] == result.metrics("valid")["mrr@10"]


def test_the_history_has_an_epoch_a_row(train: Callable[..., RunResult]) -> None:
    result = train("BPR", epochs=3)
    history = result.history()
    assert list(history.index) == [1, 2, 3]
    assert history["loss/total"].notna().all()
    best = history["valid/ndcg@10"].idxmax()
    assert best == result.record["best_epoch"]
    expected = result.metrics("valid")["ndcg@10"]
    assert history["valid/ndcg@10"][best] == pytest.approx(expected, rel=1e-6)
    assert not any(name.startswith(("best", "cost", "test")) for name in history)


@pytest.mark.parametrize("split", ["leave_one_out", "ratio"])
@pytest.mark.parametrize("masking", [None, "train", "none"])
def test_means_over_users_are_the_metrics(
    train: Callable[..., RunResult], masking: str | None, split: str
) -> None:
    several = {"split": split, "split_ratios": [2, 1, 2]} if split == "ratio" else {}
    result = train("BPR", **several)
    users = result.per_user(masking)
    assert len(users) == result.record["users"]
    assert list(users.index) == list(dict.fromkeys(result.ranks(masking)["user"]))
    assert (len(users) < len(result.ranks(masking))) == (split == "ratio")
    expected = result.metrics("test", masking)
    assert users.mean().to_dict() == pytest.approx({name: expected[name] for name in users})
    assert {"recall@10", "ndcg@10", "mrr@10", "hit@10"} < {*users}


def test_vectors_have_their_tokens(train: Callable[..., RunResult]) -> None:
    result = train("BPR")
    opened = result.reopen()
    items = result.vectors()
    assert list(items.index) == list(opened.dataset.item_tokens)
    assert np.array_equal(items, opened.model.item_embedding.weight.detach()[1:])
    users = result.vectors("user")
    assert np.array_equal(users, opened.model.user_embedding.weight.detach()[1:])
    with pytest.raises(RunError, match="holds no embeddings"):
        train("Pop").vectors()
