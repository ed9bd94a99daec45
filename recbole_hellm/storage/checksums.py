"""Checksums of files, and documents that carry their own.

A sealed document is a JSON object whose key ``checksum`` is the SHA-256 of the rest. It may list
the checksums of files beside it, under the key ``files``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_hellm.errors import HellmError
from recbole_hellm.storage.text_files import open_regular

CHECKSUM = "checksum"
FILES = "files"


def content_hash(content: Any, length: int = 12) -> str:
    """Hash of anything JSON can hold; the same for equal content on every machine."""
    text = json.dumps(content, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def update_digest(digest: hashlib._Hash, path: Path) -> None:
    """Add the bytes of a file to a hash object."""
    with open_regular(path) as file:
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


def known_sha256(path: Path) -> str:
    """:func:`file_sha256`, which reads a file once in a process as long as it stays as it is."""
    facts = os.stat(path)
    return _sha256_of(path.resolve(), facts.st_size, facts.st_mtime_ns, facts.st_ino)


@functools.cache
def _sha256_of(path: Path, size: int, changed: int, number: int) -> str:
    """A file's checksum; `size`, `changed` and `number` tell it from what was there before."""
    return file_sha256(path)


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files by their names in a folder."""
    return {name: file_sha256(folder / name) for name in sorted(names)}


_MARK = b"\nsha256 "
_TRAILER = len(_MARK) + hashlib.sha256().digest_size


def append_checksum(path: Path, subject: str) -> None:
    """Append a checksum to a binary file whose readers ignore what follows its end, as zip's do.

    Parameters
    ----------
    path : Path
    subject : str
        What the file is; as another subject's file it is taken for damaged.
    """
    digest = hashlib.sha256(subject.encode())
    update_digest(digest, path)
    with path.open("ab") as file:
        file.write(_MARK + digest.digest())


def fits_appended_checksum(path: Path, subject: str) -> bool:
    """Whether a file is as it was when its checksum was appended; so is one without.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    digest = hashlib.sha256(subject.encode())
    with open_regular(path) as file:
        left = file.seek(0, os.SEEK_END) - _TRAILER
        if left < 0:
            return True
        file.seek(left)
        trailer = file.read()
        if not trailer.startswith(_MARK):
            return True
        file.seek(0)
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return trailer == _MARK + digest.digest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A document with its own checksum, as JSON has it."""
    plain = json.loads(json.dumps({**content, CHECKSUM: None}, default=str))
    del plain[CHECKSUM]
    return plain | {CHECKSUM: content_hash(plain, length=64)}


def check_seal(
    content: Mapping[str, Any], path: Path, error: type[HellmError], way_out: str
) -> None:
    """Check that a document is as it was written; one without a checksum passes.

    Parameters
    ----------
    content : mapping
        The document.
    path : Path
        The file that it was read from.
    error, way_out : type, str
        What is raised, and the end of its sentence.

    Raises
    ------
    HellmError
        If its checksum is another one, or stands under another name.
    """
    if CHECKSUM in content:
        problem = None if _seals(content, CHECKSUM) else "its checksum differs"
    else:  # written by an earlier version, unless a changed letter hides the checksum
        hidden = any(_seals(content, key) for key in content)
        problem = f"it has no {CHECKSUM} and one under another name" if hidden else None
    if problem is not None:
        raise error(f"{path} is damaged ({problem}); {way_out}.")


def _seals(content: Mapping[str, Any], name: str) -> bool:
    """Whether the value of a key is the checksum of all others."""
    if not isinstance(content[name], str) or len(content[name]) != 64:
        return False
    rest = {key: value for key, value in content.items() if key != name}
    return bool(content[name] == content_hash(rest, length=64))


def damage(folder: Path, listed: Mapping[str, str], name: str) -> str | None:
    """What is wrong with a file that a document lists, or None.

    Parameters
    ----------
    folder : Path
        The document's folder.
    listed : mapping
        Checksums by file name; a file that is not listed is not checked.
    name : str
    """
    path = folder / name
    if name not in listed:
        return None
    try:
        return None if file_sha256(path) == listed[name] else "its checksum differs"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return error.strerror or str(error)


def check_file(
    folder: Path, listed: Mapping[str, str], name: str, error: type[HellmError], way_out: str
) -> Path:
    """The path of a file whose content is as it was listed.

    Parameters
    ----------
    folder, listed, name
        See :func:`damage`.
    error, way_out : type, str
        What is raised, and the end of its sentence.

    Raises
    ------
    HellmError
        If it is damaged or missing.
    """
    reason = damage(folder, listed, name)
    if reason is not None:
        raise error(f"{folder / name} is damaged ({reason}); {way_out}.")
    return folder / name
