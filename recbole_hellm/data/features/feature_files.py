"""The three files of a feature set: what they hold, and whether they are intact.

See :mod:`recbole_hellm.data.features.store`. The manifest carries a checksum of its own, and the
checksums of the other two files under ``files``. Earlier versions wrote neither; their manifests
hold the matrix's checksum and a hash of the tokens alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pydantic
from typing_extensions import NotRequired, TypedDict

from recbole_hellm.errors import FeatureError
from recbole_hellm.storage.checksums import CHECKSUM, FILES, check_file, check_seal
from recbole_hellm.storage.json_files import read_json

logger = logging.getLogger(__name__)

LANGUAGE = "language"
"""Modality of what a language model makes of titles."""
ON_REQUEST = "on_request"
"""Detail of a set that is read only where it is named, so that it joins no other model's features.
"""
_LARGEST = 1 << 31  # bytes of tokens or of a manifest, which may list millions of items
# What NumPy raises for damaged .npy files.
UNREADABLE = (
    *(OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError, KeyError),
    *(RecursionError, MemoryError, OverflowError),
)


class Manifest(TypedDict):
    """What a feature set's manifest must hold; it may hold more."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    modality: str
    encoder: str
    rows: int
    dim: int
    matrix_sha256: str
    tokens_sha256: str
    missing: NotRequired[list[str] | None]
    details: NotRequired[dict[str, Any] | None]
    saved_at: NotRequired[float]
    files: NotRequired[dict[str, str]]


def tokens_path(path: Path) -> Path:
    """Where the item tokens of the feature matrix `path` are."""
    return path.with_suffix(".tokens.json")


def manifest_path(path: Path) -> Path:
    """Where the manifest of the feature matrix `path` is."""
    return path.with_suffix(".json")


def tokens_digest(tokens: Sequence[str]) -> str:
    """Hash of item tokens in their order."""
    return hashlib.sha256(json.dumps(list(tokens), ensure_ascii=False).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the feature matrix `path`.

    Raises
    ------
    FeatureError
        If it cannot be read, is damaged, or is another set's.
    """
    source, way_out = manifest_path(path), _way_out(path)
    manifest: dict[str, Any] = read_json(source, Manifest, FeatureError, way_out, _LARGEST)
    check_seal(manifest, source, FeatureError, way_out)
    if f"{manifest['modality']}-{manifest['encoder']}" != path.stem:
        raise FeatureError(
            f"{source} describes {manifest['modality']}-{manifest['encoder']}, not {path.stem}; "
            "give the files of this feature set back their names."
        )
    return manifest


def on_request(path: Path) -> bool:
    """Whether the feature set `path` is read only where it is named.

    Raises
    ------
    FeatureError
        If that cannot be known, since the manifest is damaged.
    """
    if path.stem.partition("-")[0] != LANGUAGE:  # no other set is, so no other manifest is read
        return False
    return bool((read_manifest(path).get("details") or {}).get(ON_REQUEST))


def read_set(path: Path) -> tuple[list[str], np.ndarray]:
    """Item tokens and matrix of a feature set.

    Returns
    -------
    tokens : list of str
        N tokens.
    matrix : ndarray
        [N, D], mapped, so that only rows that are read take memory.

    Raises
    ------
    FeatureError
        If a file is missing or damaged, or they do not fit each other.
    """
    manifest, way_out = read_manifest(path), _way_out(path)
    if CHECKSUM not in manifest:
        logger.info("%s has no checksum; an earlier version wrote it.", manifest_path(path))
    listed = {**manifest.get(FILES, {}), path.name: manifest["matrix_sha256"]}
    source = check_file(path.parent, listed, tokens_path(path).name, FeatureError, way_out)
    tokens: list[str] = read_json(source, list[str], FeatureError, way_out, _LARGEST)
    if tokens_digest(tokens) != manifest["tokens_sha256"]:
        raise FeatureError(f"{source} is damaged (its tokens are others); {way_out}.")
    check_file(path.parent, listed, path.name, FeatureError, way_out)
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, kind = matrix.shape, matrix.dtype.kind
    except (*UNREADABLE, AttributeError) as error:  # AttributeError: an archive of arrays
        raise FeatureError(
            f"{path} cannot be read as a plain array ({type(error).__name__}); {way_out}."
        ) from error
    if shape != (manifest["rows"], manifest["dim"]) or len(set(tokens)) != len(matrix):
        raise FeatureError(
            f"{path} has shape {shape} and {len(set(tokens))} item tokens where its manifest "
            f"says [{manifest['rows']}, {manifest['dim']}]; {way_out}."
        )
    if kind not in "fiu":
        raise FeatureError(f"{path} holds values of type {matrix.dtype}; {way_out}.")
    return tokens, matrix


def _way_out(path: Path) -> str:
    return f"delete the files {path.stem}.* there, and encode or import these features again"
