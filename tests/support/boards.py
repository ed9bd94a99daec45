"""TensorBoard's own application over a folder of runs, and what it shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from google.protobuf import text_format
from tensorboard import default
from tensorboard.backend import application
from tensorboard.backend.event_processing.data_ingester import LocalDataIngester
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.program import TensorBoard
from werkzeug.test import Client

from recbole_hellm.runs.results import RunResult
from recbole_hellm.tracking.projector import PROJECTOR_CONFIG


def serve(logdir: Path) -> Client:
    """TensorBoard's own application over a folder, without a server."""
    program = TensorBoard(plugins=default.get_plugins())
    once = ["--reload_interval=0", "--reload_task=blocking"]
    program.configure(["tensorboard", f"--logdir={logdir}", "--load_fast=false", *once])
    data = LocalDataIngester(program.flags)
    data.start()
    return Client(
        application.TensorBoardWSGIApp(
            program.flags, program.plugin_loaders, data.data_provider, None
        )
    )


def session_groups(site: Client, *statuses: str) -> dict[str, Any]:
    """Rows of the HPARAMS view, by their names."""
    asked = {"startIndex": 0, "sliceSize": 100, "colParams": [], "allowedStatuses": statuses}
    groups = site.post("/data/plugin/hparams/session_groups", json=asked).json["sessionGroups"]
    return {group["name"]: group for group in groups}


def shown_name(result: RunResult, runs: Path) -> str:
    return result.path.relative_to(runs).as_posix()


def read_projector(path: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Vectors and texts of a run directory."""
    config = text_format.Parse((path / PROJECTOR_CONFIG).read_text(), ProjectorConfig())
    (shown,) = config.embeddings
    assert not Path(shown.tensor_path).is_absolute()
    assert not Path(shown.metadata_path).is_absolute()
    vectors = np.fromfile(path / shown.tensor_path, dtype="<f4").reshape(shown.tensor_shape)
    texts = (path / shown.metadata_path).read_text(encoding="utf-8")
    frame = pd.read_csv(io.StringIO(texts), sep="\t", quoting=3, dtype=str, keep_default_na=False)
    return vectors, frame
