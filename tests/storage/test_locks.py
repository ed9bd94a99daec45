from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from recbole_hellm.errors import RunError
from recbole_hellm.storage.locks import locked

CHILD = """
import sys, time
from pathlib import Path
from recbole_hellm.errors import RunError
from recbole_hellm.storage.locks import locked
with locked(Path(sys.argv[1]), RunError("busy")):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_exclusive_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    for _ in range(2):
        with locked(path, RunError("busy")):
            assert path.exists()
            with pytest.raises(RunError, match="busy"), locked(path, RunError("busy")):
                pass
        assert not path.exists()


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", CHILD, str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="busy"), locked(path, RunError("busy")):
            pass
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate()
    assert path.exists()
    with locked(path, RunError("busy")):
        pass
    assert not path.exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks"), NotImplementedError()])
def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with locked(tmp_path / ".lock", RunError("busy")), locked(tmp_path / ".lock", RunError("busy")):
        pass


def test_errors_of_the_block_release_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / ".lock", RunError("busy")):
        raise KeyboardInterrupt
    with locked(tmp_path / ".lock", RunError("busy")):
        pass


CONTENDER = """
import contextlib, os, sys, time
from pathlib import Path
from recbole_hellm.errors import RunError
from recbole_hellm.storage.locks import locked
path, end = Path(sys.argv[1]), time.monotonic() + 0.5
while time.monotonic() < end:
    with contextlib.suppress(RunError), locked(path, RunError("busy")):
        os.close(os.open(path.with_name("inside"), os.O_CREAT | os.O_EXCL))
        path.with_name("inside").unlink()
"""


def test_removing_the_file_never_lets_two_in(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / ".lock")]
    contenders = [
        subprocess.Popen(command, stderr=subprocess.PIPE)  # noqa: S603
        for _ in range(3)
    ]
    errors = [contender.communicate()[1] for contender in contenders]
    assert errors == [b""] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_lock_can_be_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, RunError("busy")):
        started = time.monotonic()
        with pytest.raises(RunError, match="busy"), locked(path, RunError("busy"), timeout=0.2):
            pass
        assert time.monotonic() - started >= 0.2
