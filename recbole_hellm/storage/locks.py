"""Locks between processes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from recbole_hellm.errors import HellmError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(
    path: Path,
    busy: HellmError,
    timeout: float = 0,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold a lock that only one process can have; the lock of a dead process is free.

    Parameters
    ----------
    path : Path
        The lock file; it is removed afterwards. Its folder must exist.
    busy : HellmError
        Raised if another process holds the lock.
    timeout : float
        Seconds to wait for it; -1 has no end.
    on_wait : callable
        Called once if there is something to wait for.

    Notes
    -----
    On a file system without locks the block runs without one.
    """
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if timeout == 0:
                raise
            on_wait()
            lock.acquire(timeout=timeout)
    except filelock.Timeout as error:
        raise busy from error
    except (OSError, NotImplementedError) as error:
        logger.debug("%s cannot be locked (%s).", path, error)
    try:
        yield
    finally:
        # On POSIX filelock leaves the file (since version 4). It must go while it is locked:
        # afterwards it may belong to another process. Windows refuses to remove an open file; there
        # filelock itself removes it on release.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
