"""TensorBoard's event files: written by a thread, whose failures are told, and read."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

from recbole_hellm.storage.files import writing

_THREADS = "tensorboard.summary.writer.event_file_writer"


PREFIX = "events.out.tfevents."
"""How names of event files begin."""


def read_scalars(path: Path) -> dict[str, dict[int, float]]:
    """The scalars of an event file, value by step by tag.

    Raises
    ------
    DecodeError, KeyError, OSError, TypeError or ValueError
        If the file is damaged. One whose end is missing is read up to there.
    """
    events = EventAccumulator(str(path), {"scalars": 0}, purge_orphaned_data=False)
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


class EventWriter(SummaryWriter):
    """TensorBoard's writer, whose failures are errors of this package.

    A full disk is met by a thread of TensorBoard's. It prints a traceback, and the next call raises
    the error again. Here the next call alone tells.

    Parameters
    ----------
    folder : Path
        Where the event file goes.
    flush_seconds : int
        How often events reach the file.

    Raises
    ------
    StorageError
        By any method, if the file cannot be written.
    """

    def __init__(self, folder: Path, flush_seconds: int = 10) -> None:
        _silence_threads()
        super().__init__(str(folder), flush_secs=flush_seconds)

    def _get_file_writer(self) -> Any:
        if self.all_writers is None or self.file_writer is None:
            writer: Any = _EventFile(
                self.log_dir, self.max_queue, self.flush_secs, self.filename_suffix
            )
            writers: Any = {writer.get_logdir(): writer}
            self.file_writer, self.all_writers = writer, writers
        return self.file_writer


class _EventFile(FileWriter):
    def __init__(self, folder: str, *arguments: Any) -> None:
        self._told = functools.partial(writing, Path(folder) / "events.out.tfevents")
        with self._told():
            super().__init__(folder, *arguments)

    def add_event(self, *arguments: Any, **named: Any) -> None:
        with self._told():
            super().add_event(*arguments, **named)

    def flush(self) -> None:
        with self._told():
            super().flush()

    def close(self) -> None:
        with self._told():
            super().close()


@functools.cache
def _silence_threads() -> None:
    """Print no error of a file in TensorBoard's threads, since its writer raises it again."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        failed = type(arguments.thread).__module__ == _THREADS
        if not (failed and issubclass(arguments.exc_type, OSError)):
            before(arguments)

    threading.excepthook = hook
