from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tracked import RECORDER, Recorder

from recbole_hellm.errors import RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.tracking.run_facts import (
    NAME_FILE,
    begin,
    results_of,
    shown_settings,
    training_name,
)
from recbole_hellm.tracking.tensorboard import TensorBoardTracker
from recbole_hellm.tracking.tracking import Tracking


def test_settings_of_the_model_its_training_and_the_protocol_are_shown(
    make_config: Callable[..., Any],
) -> None:
    config = make_config("BPR", embedding_size=4)
    stages = {"graph": "runs/tiny/LightGCN/0123"}
    shown = shown_settings(config, stages, {"learning_rate": 0.1, "embedding_size": 4})
    assert list(shown)[:2] == ["model", "dataset"]
    assert (shown["model"], shown["dataset"], shown["embedding_size"]) == ("BPR", "tiny", 4)
    assert shown["mask_history"] == "seen"
    assert shown["graph_stage"] == "LightGCN/0123"
    assert shown["searched"] == "learning_rate=0.1 embedding_size=4"
    assert shown["betas"] == [0.9, 0.999]
    assert not {"runs_dir", "data_path", "trackers", "mlflow_uri"} & set(shown)
    assert "searched" not in shown_settings(config, {}, {})


def test_results_are_named_by_masking_and_repeated_for_the_chosen_epoch() -> None:
    record = {
        "masking": "seen",
        "best_epoch": 7,
        "valid": {"seen": {"ndcg@10": 0.3}},
        "test": {"seen": {"ndcg@10": 0.2}, "none": {"ndcg@10": 0.1}},
        "cost": {"train_seconds": 5.0},
    }
    assert results_of(record, "NDCG@10") == {
        "test-seen/ndcg@10": 0.2,
        "test-none/ndcg@10": 0.1,
        "best/epoch": 7,
        "best/test-ndcg@10": 0.2,
        "best/valid-ndcg@10": 0.3,
        "cost-of-run/train_seconds": 5.0,
    }


def test_a_training_keeps_its_name(make_config: Callable[..., Any], tmp_path: Path) -> None:
    config, directory = make_config("BPR"), RunDirectory(tmp_path / "tiny/BPR/0123")
    assert training_name(directory) is None
    begin(Tracking({RECORDER: Recorder()}), config, directory, {}, {})
    name = training_name(directory)
    assert name is not None and len(name) == 16
    begin(Tracking({RECORDER: Recorder()}), config, directory, {}, {}, name)
    first, second = Recorder.runs["tiny/BPR/0123"]
    assert (first.training, first.resumed) == (name, False)
    assert (second.training, second.resumed) == (name, True)
    assert second.directory == directory.path
    assert second.options["wandb_mode"] == "offline"
    begin(Tracking({RECORDER: Recorder()}), config, directory, {}, {})
    assert training_name(directory) != name


def test_tensorboard_alone_needs_no_name(make_config: Callable[..., Any], tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    with Tracking({"tensorboard": TensorBoardTracker()}) as tracking:
        begin(tracking, make_config("BPR"), directory, {}, {})
    begin(Tracking(), make_config("BPR"), directory, {}, {})
    assert not directory.file(NAME_FILE).exists()


def test_a_damaged_name_is_told(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    (tmp_path / NAME_FILE).write_text(json.dumps({}))
    assert training_name(directory) is None
    (tmp_path / NAME_FILE).write_text("{")
    with pytest.raises(RunError, match=r"tracking\.json is no JSON"):
        training_name(directory)
