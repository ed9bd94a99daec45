"""Learning curves of runs, read from their TensorBoard events."""

from __future__ import annotations

import logging
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

from recbole_hellm.errors import RunError, reason
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.storage.text_files import open_regular
from recbole_hellm.tracking.event_files import PREFIX, read_scalars
from recbole_hellm.tracking.tensorboard import name_of

logger = logging.getLogger(__name__)

Curve = list[tuple[int, float]]
"""Epochs, from 1, and their values."""


def read_curves(directory: Path) -> dict[str, Curve]:
    """Scalars of a run by name, as (epoch from 1, value); empty where no events are kept.

    Where a run was resumed, the last value of an epoch counts.

    Raises
    ------
    RunError
        If a file of events is damaged or missing.
    """
    run = RunDirectory(directory)
    names = run.listed()
    sealed = names is not None
    if names is None:  # an earlier version wrote it
        names = {path.name: "" for path in directory.glob(f"{PREFIX}*")}
    curves: dict[str, dict[int, float]] = {}
    for name in sorted(names):
        if name.startswith(PREFIX):
            path = run.verified(name)
            if not sealed:
                _check_events(path)
            for curve, values in _scalars(path, run.way_out).items():
                curves.setdefault(curve, {}).update(values)
    return {curve: sorted(values.items()) for curve, values in curves.items()}


def _scalars(path: Path, way_out: str) -> dict[str, dict[int, float]]:
    """Values by name and epoch from 1."""
    try:
        return {
            name_of(tag): {step + 1: value for step, value in values.items()}
            for tag, values in read_scalars(path).items()
        }
    except (DecodeError, KeyError, OSError, TypeError, ValueError) as error:
        raise RunError(f"{path} cannot be read as events ({reason(error)}); {way_out}.") from error


def _check_events(path: Path) -> None:
    """Warn where reading ends before the file does, which TensorBoard passes over."""
    with open_regular(path):
        pass
    records = PyRecordReader_New(str(path))
    try:
        while True:
            records.GetNext()
    except OutOfRangeError:
        return
    except DataLossError as error:
        logger.warning("%s is damaged, so curves may lack epochs (%s).", path, error)
