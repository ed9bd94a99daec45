"""The MLflow tracker. What it is told of whole runs is in test_tracking.py."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from support.tracked import INSTALLED, mlflow_runs, of_mlflow

if "mlflow" not in INSTALLED:  # not imported here, where it would read the environment too early
    pytest.skip(
        "mlflow is not installed; pip install 'recbole-hellm[mlflow]'", allow_module_level=True
    )


from recbole_hellm.errors import ConfigError
from recbole_hellm.runs.results import RunResult
from recbole_hellm.tracking.mlflow import MLflowTracker, key_of
from recbole_hellm.tracking.tracker import TrackedRun


def tracked(folder: Path, training: str = "name", resumed: bool = False, **options: Any) -> Any:
    options = {"runs_dir": str(folder)} | options
    return TrackedRun("BPR", "tiny", "1", folder / "tiny/BPR/1", training, resumed, options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, since making a database takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("valid/ndcg@10", "valid/ndcg_at_10"),
        ("loss/total", "loss/total"),
        ("cost-of-run/train_seconds", "cost-of-run/train_seconds"),
        ("loss/a b:c#d", "loss/a b:c_d"),
    ],
)
def test_names_are_those_that_mlflow_takes(name: str, key: str) -> None:
    assert key_of(name) == key


def test_a_resumed_training_goes_on_with_its_run(folder: Path) -> None:
    first = MLflowTracker()
    assert first.start(tracked(folder, "a"), {"embedding_size": 8}) == 0
    for step in range(3):
        first.curves({"loss/total": 1.0 - step / 10, "valid/ndcg@10": 0.1}, step)
    first.results({"best/epoch": 1, "cost-of-run/train_seconds": 2.0}, 0)
    first.finish("stopped")
    second = MLflowTracker()
    assert second.start(tracked(folder, "a", resumed=True), {"embedding_size": 8}) == 3
    second.curves({"loss/total": 0.7, "valid/ndcg@10": 0.1}, 3)
    second.results({"best/epoch": 1, "cost-of-run/train_seconds": 3.0}, 0)
    client, _ = mlflow_runs(folder)
    assert client.get_run(second._id).info.status == "RUNNING"
    second.finish("finished")
    assert second._id == first._id
    history = {
        key: [(metric.step, metric.value) for metric in client.get_metric_history(first._id, key)]
        for key in ("loss/total", "best/epoch", "cost-of-run/train_seconds")
    }
    assert [step for step, _ in history["loss/total"]] == [0, 1, 2, 3]
    assert history["best/epoch"] == [(0, 1.0)]
    assert history["cost-of-run/train_seconds"] == [(0, 2.0), (0, 3.0)]
    other = MLflowTracker()
    assert other.start(tracked(folder, "b", resumed=True), {}) == 0
    assert other._id != first._id


def test_long_settings_and_many_of_them_are_kept(folder: Path) -> None:
    tracker = MLflowTracker()
    settings = {f"key_{number}": number for number in range(230)} | {"long": "x" * 7000}
    tracker.start(tracked(folder, "many"), settings)
    client, _ = mlflow_runs(folder)
    kept = client.get_run(tracker._id).data.params
    assert len(kept) == 231 and kept["key_229"] == "229"
    assert kept["long"] == "x" * 6000


@pytest.mark.parametrize(
    ("status", "shown"), [("finished", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")]
)
def test_mlflow_shows_how_it_ended(status: Any, shown: str, folder: Path) -> None:
    tracker = MLflowTracker()
    tracker.start(tracked(folder, status), {})
    tracker.finish(status)
    client, _ = mlflow_runs(folder)
    assert client.get_run(tracker._id).info.status == shown
    MLflowTracker().finish(status)  # not started


def test_files_of_folders_keep_their_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"a")
    tracker = MLflowTracker()
    tracker.start(tracked(folder, "files"), {})
    tracker.artefact(tmp_path / "a.bin", "model/parts/a.bin")
    client, _ = mlflow_runs(folder)
    (found,) = client.list_artifacts(tracker._id, "model/parts")
    assert found.path == "model/parts/a.bin"


def test_a_server_that_is_not_there_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://user:secret@127.0.0.1:9"
    sentence = r"MLflow at http://\.\.\.@127\.0\.0\.1:9 cannot be used"
    with pytest.raises(ConfigError, match=sentence) as caught:
        MLflowTracker().start(tracked(tmp_path, mlflow_uri=uri), {})
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="take mlflow out of --trackers"):
        MLflowTracker().start(tracked(tmp_path, mlflow_uri="no-such-scheme://x"), {})


def test_nothing_is_sent_and_nothing_is_written_elsewhere(told: RunResult) -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    from mlflow.telemetry.client import get_telemetry_client

    assert get_telemetry_client() is None
    assert not list(Path.cwd().glob("mlruns")) and not list(Path.cwd().glob("mlflow.db"))
    assert {path.name for path in (told.path.parents[2] / "mlflow").iterdir()} == {
        "mlflow.db",
        "artifacts",
    }
    assert of_mlflow(told.path).status == "FINISHED"
    assert logging.getLogger("mlflow").level == logging.WARNING
