"""How the program ends: a status, and at most one sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import click

from recbole_hellm.storage.files import FULL, MISNAMED, READ_ONLY
from recbole_hellm.storage.terminal import plain_text

PROGRAM = "recbole-hellm"
MISTAKE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM; to be handled as an interrupt is."""


def tell(sentence: str) -> None:
    """Write one sentence to standard error, without what a terminal would obey."""
    click.echo(plain_text(f"{PROGRAM}: {sentence}"), err=True)


def disk_sentence(error: OSError) -> str | None:
    """The sentence for a full disk, or for files that may not be used; None for other errors."""
    reason = error.strerror or str(error)
    name = error.filename or "A file"
    if error.errno in FULL:
        return (
            f"{name} cannot be written ({reason}); free some space, and give the same command "
            "again."
        )
    if error.errno in READ_ONLY:
        return f"{name} cannot be used ({reason}); change its permissions, or name another place."
    if error.errno in MISNAMED:
        return f"{name} cannot be used ({reason}); name another place."
    return None


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """Raise :class:`Terminated` at SIGTERM, so that the block cleans up before the process ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def close_output() -> None:
    """Leave a standard output that nobody reads, so that Python does not fail on it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
