"""Folders whose record lists the checksums of the files beside it.

The record is written last. Folders that earlier versions wrote have a record without checksums;
their files are not checked.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pydantic
from typing_extensions import NotRequired, TypedDict

from recbole_hellm.errors import HellmError
from recbole_hellm.storage.checksums import (
    CHECKSUM,
    FILES,
    check_seal,
    checksums,
    damage,
    sealed,
)
from recbole_hellm.storage.files import atomic_path
from recbole_hellm.storage.json_files import read_json

RECORD = "metrics.json"


class _Sealed(TypedDict):
    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    checksum: NotRequired[str]
    files: NotRequired[dict[str, str]]


class SealedFolder:
    """A folder with a record of what is in it.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    error : type of HellmError
        What is raised for damaged files.
    """

    error: ClassVar[type[HellmError]] = HellmError

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def way_out(self) -> str:
        """How to get whole files again: the end of a sentence."""
        return "restore the folder"

    def file(self, name: str) -> Path:
        """Path of a file in this folder."""
        return self.path / name

    @property
    def has_record(self) -> bool:
        """Whether the record, which is written last, is there."""
        return self.file(RECORD).is_file()

    def read_record(self) -> dict[str, Any]:
        """The record as it was written, without the checksums; raises `error` if damaged."""
        content = self._sealed()
        return {key: value for key, value in content.items() if key not in (CHECKSUM, FILES)}

    def listed(self) -> dict[str, str] | None:
        """Checksums of files by name; None without a record, or with one that has none.

        Raises
        ------
        HellmError
            If the record is damaged.
        """
        if not self.has_record:
            return None
        found: dict[str, str] | None = self._sealed().get(FILES)
        return found

    def holds(self, name: str) -> bool:
        """Whether a file is here; one that is not listed is what a killed process left.

        Raises
        ------
        HellmError
            If the record is damaged.
        """
        listed = self.listed()
        return self.file(name).is_file() if listed is None else name in listed

    def verified(self, name: str) -> Path:
        """Path of a file whose content is as it was written, which its checksum tells.

        Without checksums, or before the record is written, files are not checked.

        Raises
        ------
        HellmError
            If the record or the file is damaged, or the file is missing or not listed.
        """
        if name == RECORD:
            self._sealed()
            return self.file(name)
        listed = self.listed()
        if listed is not None:
            self._check(listed, name)
        return self.file(name)

    def verified_folder(self, name: str) -> Path:
        """Path of a folder in this one, whose files but for texts to read are as they were written.

        Raises
        ------
        HellmError
            If a file in it is damaged, missing or not listed.
        """
        folder, listed = self.file(name), self.listed()
        if listed is not None:
            there = (path for path in folder.rglob("*") if path.is_file())
            names = {path.relative_to(self.path).as_posix() for path in there}
            names |= {other for other in listed if other.startswith(f"{name}/")}
            for other in sorted(names):
                if not other.endswith((".md", ".tmp")):
                    self._check(listed, other)
        return folder

    def damages(self) -> Iterator[str]:
        """Each damaged file, with what is wrong with it."""
        try:
            listed = self.listed() or {}
        except HellmError as error:
            yield str(error)
            return
        for name in listed:
            if reason := damage(self.path, listed, name):
                yield self._sentence(name, reason)

    def _check(self, listed: Mapping[str, str], name: str) -> None:
        """Check a file that has to be among the listed ones."""
        if name not in listed:
            problem = f"is not listed in {RECORD}" if self.file(name).exists() else "is missing"
            raise self.error(f"{self.file(name)} {problem}; {self.way_out}.")
        if reason := damage(self.path, listed, name):
            raise self.error(self._sentence(name, reason))

    def _sentence(self, name: str, reason: str) -> str:
        # The record may be another folder's, which is whole in itself.
        return (
            f"{self.file(name)} is damaged ({reason}), or does not belong to the {RECORD} beside "
            f"it; {self.way_out}."
        )

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record, with the checksums of all files that are here but for logs."""
        paths = (path for path in self.path.rglob("*") if path.is_file())
        names = (path.relative_to(self.path).as_posix() for path in paths)
        kept = [name for name in names if name != RECORD and not name.endswith((".tmp", ".log"))]
        self._write(record, checksums(self.path, kept))

    @contextlib.contextmanager
    def adding(self, name: str) -> Iterator[None]:
        """Add or replace a file in the block.

        Whenever the process is killed, the folder stands as it was, or without that file.
        """
        record, listed = self.read_record(), self.listed()
        if listed is None:
            yield
            return
        others = {other: listed[other] for other in listed if other != name}
        written = self.file(RECORD).stat()
        if len(others) < len(listed):
            self._write(record, others, written)
        yield
        self._write(record, others | checksums(self.path, [name]), written)

    def _sealed(self) -> dict[str, Any]:
        path = self.file(RECORD)
        content: dict[str, Any] = read_json(path, _Sealed, self.error, self.way_out)
        if FILES in content and CHECKSUM not in content:
            raise self.error(f"{path} is damaged (its checksum is missing); {self.way_out}.")
        check_seal(content, path, self.error, self.way_out)
        return content

    def _write(
        self,
        record: Mapping[str, Any],
        listed: Mapping[str, str],
        like: os.stat_result | None = None,
    ) -> None:
        """Write the record, with the times of the one that it replaces if given."""
        text = json.dumps(sealed({**record, FILES: dict(sorted(listed.items()))}), indent=2) + "\n"
        with atomic_path(self.file(RECORD)) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            if like is not None:
                os.utime(temporary, ns=(like.st_atime_ns, like.st_mtime_ns))
