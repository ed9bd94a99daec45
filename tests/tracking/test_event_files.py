from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from recbole_hellm.errors import StorageError
from recbole_hellm.tracking import event_files
from recbole_hellm.tracking.event_files import EventWriter


def test_events_are_written(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)
    writer.add_scalar("loss", 0.5, 3)
    writer.close()
    read: Any = EventAccumulator(str(tmp_path))
    (event,) = read.Reload().Scalars("loss")
    assert (event.step, event.value) == (3, 0.5)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_told_by_the_next_call_alone(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = EventWriter(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(RecordWriter, "write", fail)

    def add_many() -> None:
        for step in range(200):
            writer.add_scalar("loss", 0.5, step)
            time.sleep(0.01)

    with pytest.raises(StorageError, match=r"events\.out\.tfevents cannot be written"):
        add_many()
    with pytest.raises(StorageError, match=r"events\.out\.tfevents cannot be written"):
        writer.flush()
    assert "Traceback" not in capsys.readouterr().err


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/run/events\.out\.tfevents cannot be written"):
        EventWriter(tmp_path / "file" / "run")


def test_other_threads_still_tell_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "full")

    told: list[Any] = []
    event_files._silence_threads.cache_clear()
    monkeypatch.setattr(threading, "excepthook", told.append)
    event_files._silence_threads()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    event_files._silence_threads.cache_clear()
    assert len(told) == 1
