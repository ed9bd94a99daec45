"""Atomic writes.

A file written here is either absent, the old one or the complete new one, even if the process is
killed at any time.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from recbole_hellm.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_AGE = 3600.0
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
MISNAMED = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
# What libraries say, who pass no error number on: torch's writer, safetensors, numpy's tofile.
_FULL_TEXTS = ("inline_container", "PytorchStreamWriter", "No space left", "requested and")


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written to into one sentence.

    Parameters
    ----------
    target : Path
        The file or folder that the block writes.

    Raises
    ------
    StorageError
        If the block fails for that reason.
    """
    try:
        yield
    except Exception as error:
        # torch's writer, when it is interrupted, complains of the place in the file on its way out.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        number = error.errno if isinstance(error, OSError) else None
        if number in READ_ONLY and _is_about(error, target):
            raise StorageError(
                f"{target} cannot be written ({os.strerror(number)}); use another folder, or "
                "change its permissions."
            ) from error
        if number in MISNAMED and _is_about(error, target):
            raise StorageError(
                f"{target} cannot be written ({os.strerror(number)}); name another place."
            ) from error
        if number in FULL or any(text in str(error) for text in _FULL_TEXTS):
            raise StorageError(
                f"{target} cannot be written (the disk is full); free some space, and give the "
                "same command again."
            ) from error
        raise


def _is_about(error: Exception, target: Path) -> bool:
    """Whether an error names the target, a file beside it or a folder above it, or no file."""
    name = getattr(error, "filename", None)
    if not isinstance(name, (str, os.PathLike)):
        return name is None
    path = Path(os.path.abspath(name))
    absolute = Path(os.path.abspath(target))
    return path.parent == absolute.parent or path == absolute or path in absolute.parents


@contextlib.contextmanager
def atomic_paths(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Write several files, which appear under their names only after all of them are complete.

    Parameters
    ----------
    targets : sequence of Path
        The final names. Missing folders are created; existing files are replaced.

    Yields
    ------
    list of Path
        A temporary path beside each target. If the block succeeds, these are renamed to the
        targets, in order. If it fails, they are removed and the targets stay as they were.
    """
    with writing(targets[0]):
        for target in targets:
            _require_replaceable(target)
        yield from _write_together(targets)


def _require_replaceable(target: Path) -> None:
    """Refuse a device, a pipe or a socket, in whose place a file would come."""
    special = target.exists() and not (target.is_file() or target.is_dir())
    # A name such as /dev/stdout leads through /proc to what the process has open.
    if special or (target.is_symlink() and os.readlink(target).startswith("/proc/")):
        raise StorageError(f"{target} is no regular file; name another one to write to.")


def _write_together(targets: Sequence[Path]) -> Iterator[list[Path]]:
    temporaries: list[Path] = []
    with contextlib.ExitStack() as held:
        try:
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
                _sweep(target.parent.absolute())
                # Without the target's name, which may already have the greatest length. Random, so
                # that processes on several machines can write the same file.
                temporaries.append(target.with_name(f".{secrets.token_hex(8)}.tmp"))
                held.enter_context(_held(temporaries[-1]))
            yield temporaries
            for temporary, target in zip(temporaries, targets, strict=True):
                os.replace(temporary, target)
        finally:
            for temporary in temporaries:
                with contextlib.suppress(FileNotFoundError):
                    temporary.unlink()


@contextlib.contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """Mark a temporary file as one that a living process writes, where the system has locks."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_held(temporary: Path) -> bool:
    """Whether a living process may be writing a temporary file."""
    if fcntl is None:
        return temporary.stat().st_mtime > time.time() - _AGE
    descriptor = os.open(temporary, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return temporary.stat().st_mtime > time.time() - _AGE
    finally:
        os.close(descriptor)
    return False


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, once in a process."""
    remove_leftovers(folder)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Write one file atomically: :func:`atomic_paths` for a single target."""
    with atomic_paths([target]) as (temporary,):
        yield temporary


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Write a folder, which appears under its name only after it is complete.

    Parameters
    ----------
    target : Path
        The final name. An existing folder is replaced, and stays if the block fails.

    Yields
    ------
    Path
        An empty temporary folder beside the target.
    """
    with writing(target):
        yield from _write_folder(target)


def _beside(target: Path) -> tuple[Path, Path]:
    """Where a folder is written, and where the one that it replaces waits meanwhile."""
    # Fixed names, so that the next call removes what a killed one left.
    return target.with_name(f".{target.name}.tmp"), target.with_name(f".{target.name}.old")


def settle_folders(parent: Path) -> None:
    """Finish what killed calls of :func:`atomic_folder` left in a folder.

    A folder that was to be replaced is put back if its successor is not in place. No other process
    may write folders there meanwhile.
    """
    for old in parent.glob(".*.old"):
        target = parent / old.name[1 : -len(".old")]
        if old.is_dir() and not target.exists():
            os.replace(old, target)
    for left in (*parent.glob(".*.tmp"), *parent.glob(".*.old")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def _write_folder(target: Path) -> Iterator[Path]:
    temporary, old = _beside(target)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.is_dir():  # its successor could not take its place
            os.replace(old, target)


def write_bytes(target: Path, content: bytes, sync: bool = False) -> None:
    """Write a file atomically.

    Parameters
    ----------
    target : Path
    content : bytes
    sync : bool
        Wait until the disk has the content, so that a power failure cannot truncate the file.
    """
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 file atomically, with line ends as they are in `text`."""
    write_bytes(target, text.encode())


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes.

    Writing into a folder does so, too. Where the system has no locks, files that changed within an
    hour stay: another process may be writing them.
    """
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # another process has just renamed it
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and not _is_held(path):
                path.unlink()
