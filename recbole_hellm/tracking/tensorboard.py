"""The TensorBoard tracker: curves, and one row a run in the HPARAMS view.

Settings and results are written to the run's own events, so TensorBoard shows one run and can
filter curves by settings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from recbole_hellm.errors import reason
from recbole_hellm.tracking.event_files import PREFIX, EventWriter, read_scalars
from recbole_hellm.tracking.tracker import Status, TrackedRun, Tracker

logger = logging.getLogger(__name__)

# The names of groups decide what TensorBoard opens with. Its pages of curves sort "/" before a
# space, so losses and validation come first; its HPARAMS view sorts a space before "/", so the
# best epoch's metrics come first. Both sort capitals before lower-case letters.
CURVES, BEST = "Epoch/", "Epoch (best)/"
FIRST_COLUMNS = {
    "dataset": "Dataset",
    "learning_rate": "Learning rate",
    "model": "Model",
    "searched": "Searched",
}
"""What the HPARAMS view calls the settings that it shows first; others begin in lower case."""


def tag_of(name: str) -> str:
    """TensorBoard's name of a curve or metric."""
    if name.startswith(("loss/", "valid/")):
        return f"{CURVES}{name}"
    return f"{BEST}{name.removeprefix('best/')}" if name.startswith("best/") else name


def name_of(tag: str) -> str:
    """The name of a curve or metric from its tag; undoes :func:`tag_of`."""
    return f"best/{tag.removeprefix(BEST)}" if tag.startswith(BEST) else tag.removeprefix(CURVES)


class TensorBoardTracker(Tracker):
    """Writes an event file into the run directory; the run's other files lie beside it."""

    def __init__(self) -> None:
        self._writer: EventWriter | None = None
        self._written: dict[str, dict[int, float]] = {}

    def start(self, run: TrackedRun, settings: Mapping[str, Any]) -> int:
        """Open the run's row in the HPARAMS view."""
        self._written = _written(run.directory)
        self._writer = EventWriter(run.directory)
        started = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for key, value in settings.items():
            column = started.hparams[FIRST_COLUMNS.get(key, key.lower())]
            # bool is a subclass of int, so test it first.
            if isinstance(value, bool):
                column.bool_value = value
            elif isinstance(value, (int, float)):
                column.number_value = value
            else:
                column.string_value = "none" if value is None else str(value)
        self._add(metadata.SESSION_START_INFO_TAG, session_start_info=started)
        # A kill may have kept a part of the last epoch's values, so it is told again.
        return max(self._written.get(tag_of("loss/total"), {}), default=0)

    def curves(self, values: Mapping[str, float], step: int) -> None:
        """Write the epoch's scalars."""
        self._write(values, step)

    def results(self, metrics: Mapping[str, float], step: int) -> None:
        """Close the run's row and its file; metrics stand at the best validation epoch."""
        self._write(metrics, step)
        ended = plugin_data_pb2.SessionEndInfo(
            status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
        )
        self._add(metadata.SESSION_END_INFO_TAG, session_end_info=ended)
        self._close()

    def artefact(self, path: Path, name: str) -> None:
        """Do nothing: the file lies beside the events."""

    def finish(self, status: Status) -> None:
        """Close the file. A row without results stays open: a resumed training goes on with it."""
        self._close()

    def _write(self, values: Mapping[str, float], step: int) -> None:
        """Write what is not there yet."""
        for name, value in values.items():
            if step not in self._written.get(tag_of(name), {}):
                self._open.add_scalar(tag_of(name), value, step)

    @property
    def _open(self) -> EventWriter:
        if self._writer is None:
            raise ValueError("it was told of the end before")
        return self._writer

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _add(self, tag: str, **content: Any) -> None:
        """Write a part of the row as ``add_hparams`` does, without its list of columns.

        TensorBoard takes that list from one run and hides the settings of other models. Without a
        list it collects the columns of all runs.
        """
        described = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
        value = Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)
        file: Any = self._open.file_writer
        file.add_summary(Summary(value=[value]))


def _written(directory: Path) -> dict[str, dict[int, float]]:
    """Scalars of a training that is resumed, value by step by tag."""
    written: dict[str, dict[int, float]] = {}
    for path in sorted(directory.glob(f"{PREFIX}*")):
        try:
            for tag, values in read_scalars(path).items():
                written.setdefault(tag, {}).update(values)
        except (DecodeError, KeyError, OSError, TypeError, ValueError) as error:
            logger.warning("%s cannot be read as events (%s).", path, reason(error))
    return written
