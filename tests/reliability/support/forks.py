"""Commands in forks of a process that has imported everything: one takes a fraction of a second.

A fork can be killed, or its disk can fill up, at any of its file operations. They are counted
through Python's audit events: files that are opened for writing, renamed, removed or truncated,
and folders that are made or removed, below the working folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import mmap
import multiprocessing
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

DEFECT = 70
"""Exit status of a fork that ends in an exception: its traceback is on standard error."""
LIMIT = 120.0
"""Seconds after which a command is taken to hang."""

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclasses.dataclass(frozen=True)
class Fault:
    """What befalls a fork.

    Attributes
    ----------
    at : int
        The file operation, from 0, before which it happens; of an error, from which on.
    error : int
        An error number: every writing operation from then on fails with it. 0 is a kill.
    largest : int, optional
        Bytes to which every file is limited, as a disk that is almost full does.
    signal : int
        Sent to the fork at that operation instead of a kill.
    """

    at: int | None = None
    error: int = 0
    largest: int | None = None
    signal: int = signal.SIGKILL


NOTHING = Fault()


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a fork ended.

    Attributes
    ----------
    status : int
        Its exit status; a signal's number, negative; None if it did not end in time.
    out, err : str
    operations : tuple of str
        What it did to files, unless it was killed.
    seconds : float
    """

    status: int | None
    out: str
    err: str
    operations: tuple[str, ...]
    seconds: float

    @property
    def sentence(self) -> str:
        """The last line on standard error."""
        return (self.err.strip().splitlines() or [""])[-1]


class _Faults:
    """The audit hook of a fork."""

    def __init__(self, fault: Fault, pipe: int) -> None:
        self.fault, self.pipe = fault, pipe
        self.count = mmap.mmap(-1, 8)  # shared with processes that this one starts
        self.active = True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or (event != "open" and event not in _CHANGES):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
            return
        path = arguments[0]
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, (str, os.PathLike)):
            return
        name = os.path.relpath(os.fspath(path)) if os.path.isabs(path) else os.fspath(path)
        if name.startswith("..") or name.startswith("/dev"):
            return
        self.active = False
        try:
            self._happens(event, name)
        finally:
            self.active = True

    def _happens(self, event: str, name: str) -> None:
        number = int.from_bytes(self.count[:], "little")
        at = self.fault.at
        if at is not None:
            if not self.fault.error and number == at:
                kill = os.killpg if self.fault.signal == signal.SIGKILL else os.kill
                kill(os.getpgid(0) if kill is os.killpg else os.getpid(), self.fault.signal)
            fails = event in ("open", "os.mkdir") or self.fault.error != errno.ENOSPC
            if self.fault.error and number >= at and fails:
                raise OSError(self.fault.error, os.strerror(self.fault.error), name)
        self.count[:] = (number + 1).to_bytes(8, "little")
        os.write(self.pipe, f"{event} {name}\0".encode("utf-8", "replace"))


def call(
    function: Callable[[], Any],
    folder: Path,
    fault: Fault = NOTHING,
    limit: float = LIMIT,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Call a function in a fork whose working folder is `folder`; see :class:`Ended`."""
    child = start(function, folder, fault, environment)
    return child.wait(limit)


@dataclasses.dataclass
class Child:
    """A fork that may still be running."""

    pid: int
    descriptor: int
    pipe: int
    texts: tuple[Path, Path]
    started: float

    def kill(self, number: int) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, limit: float = LIMIT) -> Ended:
        """Wait until it ends; kill it, and its children, after `limit` seconds."""
        rest = max(0.0, self.started + limit - time.monotonic())
        ready, _, _ = select.select([self.descriptor], [], [], rest)
        status: int | None = None
        if not ready:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        _, code = os.waitpid(self.pid, 0)
        if ready:
            status = os.waitstatus_to_exitcode(code)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self.descriptor)
        seconds = time.monotonic() - self.started
        with os.fdopen(self.pipe, "rb") as file:
            file.seek(0)
            content = file.read()
        operations = tuple(content.decode().split("\0")[:-1])
        out, err = (path.read_text("utf-8", "replace") for path in self.texts)
        for path in self.texts:
            path.unlink()
        return Ended(status, out, err, operations, seconds)


def start(
    function: Callable[[], Any],
    folder: Path,
    fault: Fault = NOTHING,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a fork; see :func:`call`."""
    stamp = f"{os.getpid()}-{time.monotonic_ns()}"
    texts = (folder.parent / f"{stamp}.out", folder.parent / f"{stamp}.err")
    pipe = os.memfd_create("operations")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    started = time.monotonic()
    gc.freeze()  # garbage collection in the fork would copy all memory
    pid = os.fork()
    if pid:
        return Child(pid, os.pidfd_open(pid), pipe, texts, started)
    status = DEFECT
    try:
        os.setpgid(0, 0)
        for descriptor, path in zip((1, 2), texts, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        sys.stdout, sys.stderr = _stream(1), _stream(2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment or {})
        os.chdir(folder)
        faults = _Faults(fault, pipe)
        if fault.largest is not None:
            # Standard output and error are files, too; their writers see the same limit.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest, resource.RLIM_INFINITY))
        sys.addaudithook(faults)
        try:
            status = int(function() or 0)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        faults.active = False
        sys.stdout.flush()
        sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    finally:
        os._exit(status)


def _stream(descriptor: int) -> Any:
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1)


def command(words: Sequence[str]) -> Callable[[], int]:
    """The command line as a function."""

    def carry_out() -> int:
        from recbole_hellm.cli.main import main

        # Workers of `compare` would import everything again.
        fork = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment]
        _log_to_here()
        return main(list(words))

    return carry_out


def _log_to_here() -> None:
    """Let loggers write to the standard error of this fork."""
    import logging

    for logger in (logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                handler.stream = sys.stderr


@contextlib.contextmanager
def running(children: Sequence[Child]) -> Iterator[Sequence[Child]]:
    """Wait for forks at the end of a block, whatever happens in it."""
    try:
        yield children
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
