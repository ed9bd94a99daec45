"""What trackers were told, read back from where each of them keeps it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from recbole_hellm.tracking.tensorboard import FIRST_COLUMNS, name_of
from recbole_hellm.tracking.tracker import Status, TrackedRun, Tracker

RECORDER = "support.tracked:Recorder"
PACKAGES = ("mlflow", "wandb")
INSTALLED = tuple(name for name in PACKAGES if importlib.util.find_spec(name))
FILES = ("config.yaml", "environment.json", "identity.json", "metrics.json")


@dataclasses.dataclass
class Told:
    """What one tracker was told of one run.

    Curves hold (epoch from 0, value) in the order in which they came, so that one that came twice
    is seen.
    """

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    artefacts: dict[str, bytes] = dataclasses.field(default_factory=dict)
    status: str = ""

    def note(self, name: str, step: int, value: float) -> None:
        is_curve = name.startswith(("loss/", "valid/", "optimisation/", "cost/"))
        if is_curve:
            self.curves.setdefault(name, []).append((step, value))
        else:
            self.metrics[name] = value


class Recorder(Tracker):
    """A tracker outside the package that keeps what it is told."""

    told: ClassVar[dict[str, Told]] = {}
    runs: ClassVar[dict[str, list[TrackedRun]]] = {}

    def start(self, run: TrackedRun, settings: Mapping[str, Any]) -> int:
        self.runs.setdefault(run.name, []).append(run)
        self.mine = self.told.setdefault(run.name, Told())
        self.mine.settings = dict(settings)
        return len(self.mine.curves.get("loss/total", []))

    def curves(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.mine.note(name, step, value)

    def results(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.mine.note(name, step, value)

    def artefact(self, path: Path, name: str) -> None:
        self.mine.artefacts[name] = path.read_bytes()

    def finish(self, status: Status) -> None:
        self.mine.status = status


def plain(value: Any) -> Any:
    """A setting as all trackers can say it."""
    if isinstance(value, str) and value[:1] in "[{":
        value = yaml.safe_load(value)
    try:
        return float(value) if not isinstance(value, bool) else value
    except (TypeError, ValueError):
        pass
    if value in ("True", "False"):
        return value == "True"
    return "none" if value in (None, "None") else value


def of_recorder(run: Path) -> Told:
    return Recorder.told["/".join(run.parts[-3:])]


def of_tensorboard(run: Path) -> Told:
    told = Told()
    events = EventAccumulator(str(run), {"scalars": 0}, purge_orphaned_data=False).Reload()
    for tag in events.Tags()["scalars"]:
        # TensorBoard reads files by name; of two that one process begins in the same second, the
        # tenth comes before the ninth.
        for event in sorted(events.Scalars(tag), key=lambda event: event.wall_time):
            told.note(name_of(tag), event.step, event.value)
    shown = events.summary_metadata
    content = shown[metadata.SESSION_START_INFO_TAG].plugin_data.content
    keys = {column: key for key, column in FIRST_COLUMNS.items()}
    for key, value in metadata.parse_session_start_info_plugin_data(content).hparams.items():
        told.settings[keys.get(key, key)] = getattr(value, str(value.WhichOneof("kind")))
    told.status = "finished" if metadata.SESSION_END_INFO_TAG in shown else ""
    told.artefacts = {name: (run / name).read_bytes() for name in FILES if (run / name).exists()}
    return told


def mlflow_runs(runs_dir: Path) -> tuple[Any, list[Any]]:
    """A client of the local store, and the runs in it."""
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(f"sqlite:///{runs_dir}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("recbole-hellm")
    return client, list(client.search_runs([experiment.experiment_id]))


def of_mlflow(run: Path) -> Told:
    client, found = mlflow_runs(run.parents[2])
    (mine,) = (one for one in found if one.info.run_name == "/".join(run.parts[-3:]))
    told = Told(settings=dict(mine.data.params), status=mine.info.status)
    for key in mine.data.metrics:
        for metric in client.get_metric_history(mine.info.run_id, key):
            told.note(key.replace("_at_", "@"), metric.step, metric.value)
    for file in client.list_artifacts(mine.info.run_id):
        path = client.download_artifacts(mine.info.run_id, file.path)
        told.artefacts[file.path] = Path(path).read_bytes()
    return told


def wandb_folders(run: Path) -> list[Path]:
    name = json.loads((run / "tracking.json").read_text())["training"]
    return sorted((run.parents[2] / "wandb").glob(f"offline-run-*-{name}"))


def of_wandb(run: Path) -> Told:
    told = Told()
    for folder in wandb_folders(run):
        (file,) = folder.glob("run-*.wandb")
        for record in wandb_records(file):
            for item in (*record.run.config.update, *record.config.update):
                if item.key != "_wandb":
                    told.settings[item.key or item.nested_key[0]] = json.loads(item.value_json)
            row = {item.key or item.nested_key[0]: item for item in record.history.item}
            for name, item in row.items():
                if name[0] != "_":
                    step = int(json.loads(row["_step"].value_json))
                    told.note(name, step, json.loads(item.value_json))
            for item in record.summary.update:
                name = item.key or item.nested_key[0]
                if name.startswith(("best/", "test-", "cost-of-run/")):
                    told.note(name, -1, json.loads(item.value_json))
            if record.HasField("exit"):
                told.status = str(record.exit.exit_code)
        for path in (folder / "files/run").glob("*"):
            told.artefacts[path.name] = path.read_bytes()
    return told


def wandb_records(file: Path, patience: float = 30) -> list[Any]:
    """Records of an offline run that has ended.

    W&B's service closes the file after `Run.finish` has returned
    (`ServiceConnection.inform_finish` waits for no answer), so its last record is waited for.
    """
    deadline = time.monotonic() + patience
    while True:
        found = list(_records(file))
        if any(record.HasField("exit") for record in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _records(file: Path) -> Iterator[Any]:
    """Records of a log of LevelDB's format, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if place + 7 + length > len(data):  # being written
            return
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


READERS: dict[str, Callable[[Path], Told]] = {
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
    "wandb": of_wandb,
}
