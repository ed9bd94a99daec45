"""The Weights & Biases tracker, offline. What it is told of whole runs is in test_tracking.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.tracked import INSTALLED, wandb_records

if "wandb" not in INSTALLED:  # not imported here, where it would read the environment too early
    pytest.skip(
        "wandb is not installed; pip install 'recbole-hellm[wandb]'", allow_module_level=True
    )

import wandb

from recbole_hellm.errors import ConfigError
from recbole_hellm.tracking.tracker import TrackedRun
from recbole_hellm.tracking.wandb import WandbTracker


def tracked(folder: Path, training: str, resumed: bool = False, **options: Any) -> TrackedRun:
    options = {"runs_dir": str(folder)} | options
    return TrackedRun("BPR", "tiny", "1", folder / "tiny/BPR/1", training, resumed, options)


def records(folder: Path) -> list[Any]:
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return wandb_records(file)


def test_a_resumed_training_replaces_what_its_killed_process_left(tmp_path: Path) -> None:
    killed = tmp_path / "wandb/offline-run-20200101_000000-name"
    other = tmp_path / "wandb/offline-run-20200101_000000-other"
    for folder in (killed, other):
        folder.mkdir(parents=True)
    tracker = WandbTracker()
    assert tracker.start(tracked(tmp_path, "name", resumed=True), {"model": "BPR"}) == 0
    tracker.finish("stopped")
    assert not killed.exists() and other.exists()
    other.rmdir()
    runs = [record.run for record in records(tmp_path) if record.HasField("run")]
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {
        ("name", "recbole-hellm", "tiny/BPR/1")
    }
    assert runs[0].job_type == "train" and {*runs[0].tags} == {"BPR", "tiny"}


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("failed", 1), ("stopped", 1)])
def test_the_end_is_told(status: Any, code: int, tmp_path: Path) -> None:
    tracker = WandbTracker()
    tracker.start(tracked(tmp_path, status), {"searched": "learning_rate=0.1"})
    tracker.finish(status)
    tracker.finish(status)  # nothing more
    found = records(tmp_path)
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [code]
    assert next(r.run for r in found if r.HasField("run")).job_type == "tune"


def test_it_leaves_the_users_own_run_alone(tmp_path: Path) -> None:
    before = wandb.run
    tracker = WandbTracker()
    tracker.start(tracked(tmp_path, "own"), {})
    assert wandb.run is before
    tracker.finish("finished")


def test_an_error_at_the_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: Any) -> None:
        assert (options["mode"], options["resume"]) == ("online", "allow")
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", fail)
    run = tracked(tmp_path, "online", wandb_mode="online")
    sentence = r"cannot start \(No API key configured\); mend that, write --wandb_mode=offline"
    with pytest.raises(ConfigError, match=sentence):
        WandbTracker().start(run, {})


def test_errors_are_not_reported_to_its_maker() -> None:
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
