"""The MLflow tracker: a database in the folder of runs, or a server."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Before the import, which reads it: nothing is sent that nobody asked for.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server that is gone keeps a training waiting for half a minute instead of several.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.errors import ConfigError, reason, without_passwords
from recbole_hellm.storage.files import writing
from recbole_hellm.storage.locks import locked
from recbole_hellm.tracking.tracker import Status, TrackedRun, Tracker

logger = logging.getLogger(__name__)

TRAINING = "recbole_hellm.training"
"""Tag of a run that holds the name of its training."""
# Its page otherwise opens with views of conversations with language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}
LONGEST = 6000  # characters of a parameter
MOST = 100  # parameters of a request
STATUSES: dict[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_NOT_ALLOWED = re.compile(r"[^/\w.\- :]")


def key_of(name: str) -> str:
    """MLflow's name of a curve or metric: ``ndcg_at_10`` for ``ndcg@10``, which it refuses."""
    return _NOT_ALLOWED.sub("_", name.replace("@", "_at_"))


class MLflowTracker(Tracker):
    """Writes into ``<runs_dir>/mlflow``, or to the server or database in ``mlflow_uri``."""

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""
        self._results: dict[str, float] = {}

    def start(self, run: TrackedRun, settings: Mapping[str, Any]) -> int:
        """Make the run, or find it by its training's name.

        Raises
        ------
        ConfigError
            If the server or database cannot be used.
        """
        chosen = RunSettings.from_config(run.options)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        try:
            self._client, experiment = _connect(chosen)
            return self._start(run, settings, experiment)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"mlflow_uri={without_passwords(str(chosen.mlflow_uri))} needs the package "
                f"'{error.name}', which is not installed; install it."
            ) from error
        except (MlflowException, OSError) as error:
            problem = f"MLflow at {chosen.mlflow_uri or _folder(chosen)} cannot be used"
            raise ConfigError(
                f"{without_passwords(f'{problem} ({reason(error)})')}; mend that, or take mlflow "
                "out of --trackers."
            ) from error

    def _start(self, run: TrackedRun, settings: Mapping[str, Any], experiment: str) -> int:
        if run.resumed:
            named = f"tags.`{TRAINING}` = '{run.training}'"
            for found in self._client.search_runs([experiment], named, max_results=1):
                self._id, self._results = found.info.run_id, dict(found.data.metrics)
                self._client.update_run(self._id, status="RUNNING")
                losses = self._client.get_metric_history(self._id, "loss/total")
                return max((metric.step for metric in losses), default=-1) + 1
        tags = {TRAINING: run.training, "model": run.model, "dataset": run.dataset}
        made = self._client.create_run(experiment, run_name=run.name, tags=tags)
        self._id = made.info.run_id
        parameters = [Param(key, str(value)[:LONGEST]) for key, value in settings.items()]
        for first in range(0, len(parameters), MOST):
            self._client.log_batch(self._id, params=parameters[first : first + MOST])
        return 0

    def curves(self, values: Mapping[str, float], step: int) -> None:
        """Log the epoch in one request."""
        now = int(time.time() * 1000)
        metrics = [Metric(key_of(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def results(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at the best validation epoch."""
        known = self._results
        self.curves({n: v for n, v in metrics.items() if known.get(key_of(n)) != v}, step)

    def artefact(self, path: Path, name: str) -> None:
        """Copy or upload a file."""
        folder = name.rpartition("/")[0]
        self._client.log_artifact(self._id, str(path), folder or None)

    def finish(self, status: Status) -> None:
        """End the run."""
        if self._id:
            self._client.set_terminated(self._id, STATUSES[status])


def _folder(chosen: RunSettings) -> Path:
    return Path(os.path.abspath(chosen.runs_dir)) / "mlflow"


def _connect(chosen: RunSettings) -> tuple[Any, str]:
    """A client, and the id of the experiment."""
    if chosen.mlflow_uri is not None:
        client = MlflowClient(chosen.mlflow_uri)
        return client, _experiment(client, chosen.tracking_project, None)
    folder = _folder(chosen)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    busy = ConfigError(f"{folder} is being made by another process; try again.")
    # Two processes that make one database at a time would fail.
    with locked(folder / ".lock", busy, timeout=120):
        database = folder / "mlflow.db"
        if not database.exists():
            logger.info("MLflow makes its database %s, which takes some seconds.", database)
        client = MlflowClient(f"sqlite:///{database.as_posix()}")
        files = (folder / "artifacts").as_uri()
        return client, _experiment(client, chosen.tracking_project, files)


def _experiment(client: Any, name: str, files: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=files, tags=KIND))
    except MlflowException:  # another process has just made it
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)
