"""The trackers of a run, told together: the same, each epoch once, and none ends a training."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.tracked import (
    FILES,
    INSTALLED,
    PACKAGES,
    READERS,
    RECORDER,
    Recorder,
    Told,
    of_recorder,
    plain,
    wandb_folders,
)

from recbole_hellm import run
from recbole_hellm.errors import ConfigError
from recbole_hellm.runs.results import RunResult
from recbole_hellm.tracking import tracking as module
from recbole_hellm.tracking.tracker import Status, TrackedRun, Tracker
from recbole_hellm.tracking.tracking import Tracking
from recbole_hellm.training.distributed import Processes
from recbole_hellm.training.trainer import RunTrainer

TRACKERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in PACKAGES and name not in INSTALLED,
            reason=f"{name} is not installed; pip install 'recbole-hellm[{name}]'",
        ),
    )
    for name in READERS
]


class Noted(Recorder):
    """A recorder of one test."""

    def __init__(self, held: int = 0, fails: tuple[str, ...] = ()) -> None:
        self.held, self.fails, self.mine, self.calls = held, fails, Told(), []
        self.finished: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise OSError(28, "No space left on device")

    def start(self, run: TrackedRun, settings: Mapping[str, Any]) -> int:
        self._call("start")
        return self.held

    def curves(self, values: Mapping[str, float], step: int) -> None:
        self._call("curves")
        super().curves(values, step)

    def results(self, metrics: Mapping[str, float], step: int) -> None:
        self._call("results")
        super().results(metrics, step)

    def artefact(self, path: Path, name: str) -> None:
        self._call("artefact")
        super().artefact(path, name)

    def finish(self, status: Status) -> None:
        self.finished.append(status)
        self._call("finish")


def started(*trackers: Tracker, curves: dict[int, dict[str, float]] | None = None) -> Tracking:
    tracking = Tracking({f"t{number}": tracker for number, tracker in enumerate(trackers)})
    tracked = TrackedRun("BPR", "tiny", "1", Path("runs/tiny/BPR/1"), "name", bool(curves), {})
    tracking.start(tracked, {}, curves or {})
    return tracking


# Of a whole run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tracker", TRACKERS)
def test_each_tracker_is_told_the_same(tracker: str, told: RunResult) -> None:
    wanted, found = of_recorder(told.path), READERS[tracker](told.path)
    settings = {key: plain(value) for key, value in wanted.settings.items()}
    assert settings["model"] == "BPR" and settings["embedding_size"] == 8
    if tracker == "tensorboard":  # all names but the first begin in lower case
        settings = {key.lower(): value for key, value in settings.items()}
    assert {key: plain(value) for key, value in found.settings.items()} == settings
    steps = {name: [step for step, _ in curve] for name, curve in wanted.curves.items()}
    assert (steps["loss/total"], steps["valid/ndcg@10"]) == ([0, 1, 2], [1, 2])
    assert steps["optimisation/learning_rate"] == [0, 1, 2]
    for name, curve in wanted.curves.items():
        assert [step for step, _ in found.curves[name]] == steps[name], name
        values = [value for _, value in curve]
        assert [value for _, value in found.curves[name]] == pytest.approx(values, rel=1e-6)
    assert set(found.curves) == set(wanted.curves)
    assert wanted.metrics["test-seen/ndcg@10"] == told.metrics()["ndcg@10"]
    assert wanted.metrics["best/valid-ndcg@10"] == told.metrics("valid")["ndcg@10"]
    assert wanted.metrics["cost-of-run/train_seconds"] == told.record["cost"]["train_seconds"]
    assert found.metrics == pytest.approx(wanted.metrics, rel=1e-6)
    assert set(found.artefacts) == set(FILES)
    assert found.artefacts == wanted.artefacts
    assert found.artefacts == {name: (told.path / name).read_bytes() for name in FILES}
    assert wanted.status == "finished"
    assert found.status == {"mlflow": "FINISHED", "wandb": "0"}.get(tracker, "finished")


KILLED = """
import os, signal, sys
from recbole_hellm import run
from recbole_hellm.training.trainer import RunTrainer
from json import loads
save = RunTrainer._save_checkpoint

def dying(self, epoch, *given, **named):
    if epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, epoch, *given, **named)

RunTrainer._save_checkpoint = dying
run("BPR", "tiny", **loads(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def resumed(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run that was killed after trackers knew an epoch that its checkpoint does not."""
    options = {
        "data_path": str(tiny_data),
        "runs_dir": str(tmp_path_factory.mktemp("killed")),
        "show_progress": False,
        "use_gpu": False,
        "threads": 1,
        "epochs": 4,
        "embedding_size": 8,
        "trackers": ["tensorboard", *INSTALLED],
        "resume": True,
    }
    # W&B tells children of its service in this process, which would outlive the child.
    inherited = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", KILLED, json.dumps(options)],
        capture_output=True,
        text=True,
        env=inherited | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -9, done.stderr
    options["trackers"] = ["tensorboard", RECORDER, *INSTALLED]
    return run("BPR", "tiny", **options)


@pytest.mark.parametrize("tracker", [*TRACKERS, "recorder"])
def test_after_a_kill_no_epoch_is_missing_or_there_twice(tracker: str, resumed: RunResult) -> None:
    read = READERS.get(tracker, of_recorder)
    found = read(resumed.path)
    assert {"loss/total", "valid/ndcg@10", "cost/seconds_per_epoch"} < set(found.curves)
    for name, curve in found.curves.items():
        assert [step for step, _ in curve] == [0, 1, 2, 3], name
    best = found.curves["valid/ndcg@10"][resumed.record["best_epoch"] - 1][1]
    assert best == pytest.approx(resumed.metrics("valid")["ndcg@10"], rel=1e-6)
    assert found.metrics["test-none/ndcg@10"] == pytest.approx(
        resumed.metrics("test", "none")["ndcg@10"], rel=1e-6
    )
    if tracker == "wandb":  # one run with one id
        assert len(wandb_folders(resumed.path)) == 1
        assert len(list((resumed.path.parents[2] / "wandb").glob("offline-run-*"))) == 1


def test_a_run_killed_before_its_first_checkpoint_is_the_same_to_trackers(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    options = quick | {"embedding_size": 16, "trackers": RECORDER, "resume": True}
    with monkeypatch.context() as patched:
        patched.setattr(RunTrainer, "_save_checkpoint", die)
        with pytest.raises(KeyboardInterrupt):
            run("BPR", "tiny", **options)
    result = run("BPR", "tiny", **options)
    killed, whole = Recorder.runs["/".join(result.path.parts[-3:])]
    assert killed.training == whole.training and whole.resumed
    assert [step for step, _ in of_recorder(result.path).curves["loss/total"]] == [0, 1]


# Parts --------------------------------------------------------------------------------------------


def test_earlier_epochs_are_told_to_those_who_lack_them() -> None:
    curves = {0: {"loss/total": 3.0}, 1: {"loss/total": 2.0}}
    new, whole, ahead = Noted(), Noted(held=2), Noted(held=3)
    tracking = started(new, whole, ahead, curves=curves)
    tracking.curves({"loss/total": 1.0}, 2)
    tracking.curves({"loss/total": 0.5}, 3)
    told = [[step for step, _ in one.mine.curves["loss/total"]] for one in (new, whole, ahead)]
    assert told == [[0, 1, 2, 3], [2, 3], [3]]


def test_a_tracker_that_claims_impossible_epochs_is_told_of_new_ones() -> None:
    tracker = Noted(held=10**12)
    tracking = started(tracker, curves={0: {"loss/total": 3.0}})
    for step in (1, 2):
        tracking.curves({"loss/total": 1.0}, step)
    assert tracker.mine.curves == {"loss/total": [(2, 1.0)]}


@pytest.mark.parametrize("method", ["curves", "results", "artefact", "finish"])
def test_a_failure_is_told_once_and_ends_nothing(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.json").write_text("{}")
    bad, good = Noted(fails=(method,)), Noted()
    with started(bad, good) as tracking:
        for step in range(3):
            tracking.curves({"loss/total": 1.0}, step)
        tracking.results({"best/epoch": 1}, 0)
        tracking.artefacts(tmp_path, ["a.json", "absent.json"])
    assert good.calls == ["start", *["curves"] * 3, "results", "artefact", "finish"]
    (warning,) = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert "The tracker t0 failed at" in warning.message
    assert "No space left on device" in warning.message
    assert warning.message.endswith("training goes on without it.")
    assert bad.calls.count(method) == (2 if method == "finish" else 1)
    assert bad.finished[-1] == "failed"
    assert good.mine.artefacts == {"a.json": b"{}"}


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (OSError("full"), "failed"), (KeyboardInterrupt(), "stopped")],
)
def test_trackers_learn_how_it_ended(error: BaseException | None, status: str) -> None:
    tracker = Noted()
    with contextlib.suppress(OSError, KeyboardInterrupt), started(tracker):
        if error is not None:
            raise error
    assert tracker.finished == [status]


def test_only_the_first_end_counts() -> None:
    tracker = Noted()
    with started(tracker) as tracking:
        tracking.finish("stopped")
        tracking.curves({"loss/total": 1.0}, 0)
    assert tracker.finished == ["stopped"]
    assert tracker.mine.curves == {}


def test_a_start_that_fails_ends_the_run() -> None:
    with pytest.raises(OSError, match="No space left"):
        started(Noted(fails=("start",)))


def test_trackers_that_were_not_started_are_told_nothing() -> None:
    tracker = Noted()
    with pytest.raises(ConfigError), Tracking({"t": tracker}):
        raise ConfigError("The model cannot be built.")
    assert tracker.calls == []


def test_files_of_folders_are_handed_over_by_relative_names(tmp_path: Path) -> None:
    (tmp_path / "model/parts").mkdir(parents=True)
    (tmp_path / "model/parts/a.bin").write_bytes(b"a")
    (tmp_path / "model/b.bin").write_bytes(b"b")
    tracker = Noted()
    started(tracker).artefacts(tmp_path, ["model"])
    assert tracker.mine.artefacts == {"model/parts/a.bin": b"a", "model/b.bin": b"b"}


def test_other_processes_have_no_trackers(
    monkeypatch: pytest.MonkeyPatch, make_config: Any
) -> None:
    config = make_config("BPR", trackers="tensorboard," + RECORDER)
    assert Tracking.of(config).names == ("tensorboard", RECORDER)
    monkeypatch.setattr(module, "current", lambda: Processes(1, 2))
    assert Tracking.of(config).names == ()


def test_a_tracker_that_fails_leaves_the_run_whole(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(Recorder, "curves", fail)
    result = run("BPR", "tiny", **quick, trackers=f"{RECORDER},tensorboard")
    assert READERS["tensorboard"](result.path).curves["loss/total"]
    assert "failed at an epoch (ConnectionError: the server is gone)" in caplog.text
    assert caplog.text.count("The tracker") == 1


def test_trackers_change_no_run(quick: dict[str, Any], tmp_path: Path) -> None:
    with_them = run("BPR", "tiny", **quick, trackers=f"tensorboard,{RECORDER}")
    without = run("BPR", "tiny", **quick | {"runs_dir": str(tmp_path / "other")}, trackers="none")
    assert with_them.path.name == without.path.name
    assert with_them.record["test"] == without.record["test"]
    names = {path.name.partition(".tfevents")[0] for path in without.path.iterdir()}
    assert not {name for name in names if name.startswith(("events", "projector", "tracking"))}
    assert (with_them.path / "tracking.json").exists()


def test_stages_have_the_trackers_of_the_run(
    quick: dict[str, Any], small_model: dict[str, Any]
) -> None:
    result = run("HeLLM", "tiny", **quick, **small_model, trackers=RECORDER)
    for one in (result, *result.stages):
        assert of_recorder(one.path).status == "finished"
    graph = next(one for one in result.stages if one.record["model"] == "HeLLMPre")
    settings = of_recorder(result.path).settings
    assert settings["graph_stage"] == "/".join(graph.path.parts[-2:])
