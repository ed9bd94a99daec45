from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.cli.endings import Terminated, termination_raised
from recbole_hellm.cli.main import load_command, main

MODELS = ["models", "--model=BPR"]


def fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def invoke(*_: Any) -> None:
        raise error

    monkeypatch.setattr(load_command("models"), "invoke", invoke)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENAMETOOLONG, "a/b cannot be used (File name too long); name another place."),
        (errno.ENOSPC, "a/b cannot be written (No space left on device); free some space"),
        (errno.EDQUOT, "a/b cannot be written (Disk quota exceeded); free some space"),
        (errno.EROFS, "a/b cannot be used (Read-only file system); change its permissions"),
        (errno.EACCES, "a/b cannot be used (Permission denied); change its permissions"),
    ],
)
def test_a_disk_that_takes_nothing_is_told(
    number: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(monkeypatch, OSError(number, os.strerror(number), "a/b"))
    assert main(MODELS) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"recbole-hellm: {told}")
    assert text.count("\n") == 1


def test_other_errors_of_the_system_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        main(MODELS)


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [(KeyboardInterrupt(), 130, "interrupted"), (Terminated(), 143, "terminated")],
)
def test_signals_have_their_status(
    error: BaseException,
    status: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail(monkeypatch, error)
    assert main(MODELS) == status
    assert capsys.readouterr().err == (
        f"recbole-hellm: {word}; the same command goes on from here.\n"
    )


def test_termination_is_raised_and_the_handler_goes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), termination_raised():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    thread = threading.Thread(target=lambda: main(["--help"]))  # other threads get no signals
    thread.start()
    thread.join()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_running_program_ends_within_seconds(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    words = ["--model=BPR", "--epochs=100000", "--stopping_step=100000", "--show_progress=False"]
    command = [sys.executable, "-m", "recbole_hellm", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as program:  # noqa: S603
        assert program.stderr is not None
        for line in program.stderr:
            if "epoch 1" in line:
                break
        program.send_signal(number)
        rest = program.stderr.read()
        assert program.wait(timeout=20) == status, rest
    assert "Traceback" not in rest
    assert rest.endswith("; --resume goes on from here.\n")


def test_an_output_that_nobody_reads_ends_silently() -> None:
    command = [sys.executable, "-m", "recbole_hellm", *MODELS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:  # noqa: S603
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        told = program.stderr.read()
        assert (program.wait(), told) == (141, b"")


def test_no_escape_sequence_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for word in (
        "\x1b[31mred",
        "--model=\x1b]0;title\x07BPR",
        "--\x1b[2Jkey=1",
        "--epochs=\x1b[2J",
    ):
        assert main(["run", word]) == 2
        text = capsys.readouterr().err
        assert text.startswith("recbole-hellm: ")
        assert text.count("\n") == 1
        assert text.removesuffix("\n").isprintable(), text
