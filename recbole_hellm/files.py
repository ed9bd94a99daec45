"""Atomic writes and checksums of files.

A file written here is either absent, the old one or the complete new one, even if the process is
killed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


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
    temporaries = []
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Without the target's name, which may already have the greatest length. Random, so that
        # processes on several machines can write the same file.
        temporaries.append(target.with_name(f".{secrets.token_hex(8)}.tmp"))
    try:
        yield temporaries
        for temporary, target in zip(temporaries, targets, strict=True):
            os.replace(temporary, target)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


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
        The final name. An existing folder is replaced.

    Yields
    ------
    Path
        An empty temporary folder beside the target.
    """
    # Fixed names, so that the next call removes what a killed one left.
    temporary, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("tmp", "old"))
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


def remove_leftovers(folder: Path, age: float = 3600.0) -> None:
    """Remove temporary files of killed processes.

    Parameters
    ----------
    folder : Path
    age : float
        Files that changed in the last `age` seconds stay: another process may be writing them.
    """
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
            if path.is_file() and path.stat().st_mtime < time.time() - age:
                path.unlink()


def update_digest(digest: hashlib._Hash, path: Path) -> None:
    """Add the bytes of a file to a hash object."""
    with path.open("rb", buffering=0) as file:
        if sys.version_info >= (3, 11):
            hashlib.file_digest(file, lambda: digest)
        else:
            while block := file.read(1 << 20):
                digest.update(block)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    update_digest(digest, path)
    return digest.hexdigest()
