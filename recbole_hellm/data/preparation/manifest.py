"""The manifest of a prepared dataset: counts, checksums and fingerprints of its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
from typing_extensions import NotRequired, TypedDict

from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.errors import DataError
from recbole_hellm.storage.checksums import check_file, check_seal, file_sha256
from recbole_hellm.storage.json_files import read_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
WAY_OUT = (
    "prepare the dataset again with --force, or delete manifest.json in its folder if you changed "
    "the file on purpose"
)


class ListedFile(TypedDict):
    """A file of the dataset, as earlier versions listed it."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]
    file: str
    sha256: str


class ReadTable(TypedDict):
    """What became of the rows of a file from which a dataset was made."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]
    file: str
    read: int
    kept: int
    dropped: dict[str, int]
    columns_taken: list[str]
    columns_left: list[str]


class Manifest(TypedDict):
    """The keys of a manifest that are read."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]
    format_version: int
    name: NotRequired[str]
    users: NotRequired[int]
    items: NotRequired[int]
    interactions: NotRequired[int]
    content: NotRequired[str]
    files: NotRequired[dict[str, str] | list[ListedFile]]
    tables: NotRequired[list[ReadTable]]


def describe_source(path: Path) -> dict[str, Any]:
    """Name, size in bytes and SHA-256 of an input file, as a manifest lists it."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def describe_table(file: str, counts: RowCounts) -> dict[str, Any]:
    """What became of the rows of an input file, as a manifest lists it."""
    return {
        "file": file,
        "read": counts.read,
        "kept": counts.kept,
        "dropped": dict(counts.dropped),
        "columns_taken": list(counts.columns_taken),
        "columns_left": list(counts.columns_left),
        "notes": list(counts.notes),
    }


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a prepared dataset, or None where there is none.

    Raises
    ------
    DataError
        If the file is there and is damaged, or is no manifest of this version.
    """
    path = Path(directory) / MANIFEST
    if not path.is_file():
        return None
    manifest: dict[str, Any] = read_json(path, Manifest, DataError, WAY_OUT)
    check_seal(manifest, path, DataError, WAY_OUT)
    version = manifest["format_version"]
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {version}, not {FORMAT_VERSION}; prepare the dataset again."
        )
    return manifest


def listed_files(manifest: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the dataset's files by their names."""
    files = manifest.get("files", {})
    if isinstance(files, Mapping):
        return dict(files)
    return {entry["file"]: entry["sha256"] for entry in files}  # written by an earlier version


def check_files(directory: Path, names: Iterable[str] | None = None) -> None:
    """Check the files of a dataset against its manifest; one without a manifest passes.

    Parameters
    ----------
    directory : Path
        The dataset's folder.
    names : iterable of str, optional
        Of which files; by default of all that the manifest lists.

    Raises
    ------
    DataError
        If a file or the manifest is damaged, or a file is missing.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        return
    listed = listed_files(manifest)
    for name in listed if names is None else names:
        check_file(Path(directory), listed, name, DataError, WAY_OUT)
