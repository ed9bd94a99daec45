"""The feature store: item features as plain arrays beside the interactions.

One feature set is three files in ``<dataset directory>/features``:

- ``<modality>-<encoder>.npy``: the matrix, float32 [N, D], readable without pickle;
- ``<modality>-<encoder>.tokens.json``: the N item tokens in row order;
- ``<modality>-<encoder>.json``: the manifest (where the rows come from, and checksums).

Rows are found by item token, so features never touch a dataset's id map, and a dataset filtered
or ordered differently still reads the right rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_hellm.errors import FeatureError
from recbole_hellm.storage.checksums import file_sha256
from recbole_hellm.storage.files import atomic_paths

logger = logging.getLogger(__name__)

FOLDER = "features"
LIFTED = ("revision", "template", "missing")  # details with a manifest field of their own
_TYPES = {"modality": str, "encoder": str, "rows": int, "dim": int} | dict.fromkeys(
    ("matrix_sha256", "tokens_sha256"), str
)


@dataclasses.dataclass(frozen=True)
class FeatureInfo:
    """One stored feature set of N = `rows` items and D = `dim` dimensions, from its manifest.

    `path` is the ``.npy`` file; `checksum` is a hash over it and the order of its item tokens.
    """

    modality: str
    encoder: str
    path: Path
    dim: int
    rows: int
    checksum: str

    @property
    def name(self) -> str:
        """``<modality>-<encoder>``, the name by which ``--features`` selects the set."""
        return self.path.stem


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """One modality's features: `matrix` [len(tokens), D] in the order of the requested tokens.

    `checksum` is that of the stored set (:class:`FeatureInfo`), whatever the requested order.
    """

    modality: str
    encoder: str
    matrix: npt.NDArray[np.float32]
    checksum: str


def feature_path(directory: Path, modality: str, encoder: str) -> Path:
    """Where a dataset directory keeps the matrix of `modality` by `encoder`.

    Raises
    ------
    FeatureError
        If a name has characters that would make file names ambiguous.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", modality):
        raise FeatureError(
            f"Modality {modality!r} cannot name a feature file; use letters, digits and _."
        )
    if not re.fullmatch(r"[A-Za-z0-9_-]+", encoder):
        raise FeatureError(
            f"Encoder {encoder!r} cannot name a feature file; use letters, digits, _ and -."
        )
    return Path(directory) / FOLDER / f"{modality}-{encoder}.npy"


def save_features(
    directory: Path,
    modality: str,
    encoder: str,
    tokens: Sequence[str],
    matrix: np.ndarray,
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Store one modality's item features; a reader never sees a half-written set.

    Parameters
    ----------
    directory : Path
        The dataset directory, for example ``dataset/Beauty``.
    modality, encoder : str
        For example ``text`` and ``minilm``; a set of the same names is replaced.
    tokens : sequence of str
        N distinct item tokens, one per row.
    matrix : ndarray
        [N, D], any real type; stored as float32.
    details : mapping, optional
        JSON-serialisable origin of the rows. ``revision``, ``template`` and ``missing`` (the item
        tokens whose row was filled in) become manifest fields, the rest goes under ``details``.

    Returns
    -------
    Path
        The ``.npy`` file.

    Raises
    ------
    FeatureError
        If tokens repeat, their number is not N, or the matrix has a NaN or infinity.
    """
    path = feature_path(directory, modality, encoder)
    tokens = check_tokens(tokens, path)
    values = _as_float32(matrix, path)
    if values.ndim != 2 or len(values) != len(tokens) or values.size == 0:
        raise FeatureError(
            f"{path} would hold a matrix of shape {values.shape} for {len(tokens)} item tokens; "
            "pass one non-empty row per token."
        )
    _check_finite(values, tokens, path)

    rest = dict(details or {})
    lifted = {key: rest.pop(key, None) for key in LIFTED}
    targets = (path, _tokens_path(path), _manifest_path(path))
    with atomic_paths(targets) as (staged_matrix, staged_tokens, staged_manifest):
        with staged_matrix.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        staged_tokens.write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
        manifest = {
            "modality": modality,
            "encoder": encoder,
            **lifted,
            "missing": list(lifted["missing"] or []),
            "rows": values.shape[0],
            "dim": values.shape[1],
            "matrix_sha256": file_sha256(staged_matrix),
            "tokens_sha256": tokens_digest(tokens),
            "details": rest,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        staged_manifest.write_text(text + "\n", encoding="utf-8")
    logger.info("Saved %s: %d items, %d dimensions.", path, *values.shape)
    return path


def list_features(directory: Path) -> list[FeatureInfo]:
    """The feature sets of a dataset directory, sorted by name; [] where there are none.

    Raises
    ------
    FeatureError
        If a manifest cannot be read.
    """
    return [_info(path) for path in _stored(directory).values()]


def load_features(
    directory: Path, tokens: Sequence[str], names: Sequence[str] | None = None
) -> dict[str, Features]:
    """Read the features of the given items, one encoder per modality.

    Parameters
    ----------
    directory : Path
        The dataset directory, for example ``dataset/Beauty``.
    tokens : sequence of str
        Item tokens (real items only, no padding); row order of the result.
    names : sequence of str, optional
        Feature sets such as ``["text-minilm", "image-synthetic"]``; by default every modality
        that is there.

    Returns
    -------
    dict of str to Features
        By modality, in the order of `names`, else sorted.

    Raises
    ------
    FeatureError
        If a set is absent, damaged, ambiguous, lacks an item, or holds a NaN or infinity.
    """
    directory = Path(directory)
    stored = _stored(directory)
    way_out = f"run `recbole-hellm encode --dataset={directory.name}`"
    if names is None:
        if not stored:
            raise FeatureError(f"{directory / FOLDER} holds no item features; {way_out}.")
        names = list(stored)
    chosen: dict[str, FeatureInfo] = {}
    for name in names:
        if name not in stored:
            raise FeatureError(
                f"{directory / FOLDER / name}.npy does not exist or has no manifest; choose among "
                f"{', '.join(stored) or 'nothing yet'} with --features, or {way_out}."
            )
        info = _info(stored[name])
        if info.modality in chosen:
            raise FeatureError(
                f"{directory / FOLDER} offers {chosen[info.modality].name} and {name} for the one "
                f"modality {info.modality}; name one of them, for example --features='[{name}]'."
            )
        chosen[info.modality] = info
    return {modality: _load(info, tokens, way_out) for modality, info in chosen.items()}


def features_fingerprint(features: Mapping[str, Features]) -> str:
    """Hash of what the features hold, independent of modality order and of item order."""
    parts = sorted((modality, feature.checksum) for modality, feature in features.items())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the feature matrix `path`.

    Raises
    ------
    FeatureError
        If it is missing, is no JSON, or lacks a field.
    """
    source = _manifest_path(path)
    try:
        manifest = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FeatureError(
            f"{source} cannot be read as a feature manifest ({error}); delete it and encode again."
        ) from error
    for key, kind in _TYPES.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), kind):
            raise FeatureError(
                f"{source} is no feature manifest, for it lacks a valid {key!r}; delete it and "
                "encode again, or write features with "
                "recbole_hellm.data.features.store.save_features."
            )
    if f"{manifest['modality']}-{manifest['encoder']}" != path.stem:
        raise FeatureError(
            f"{source} describes {manifest['modality']}-{manifest['encoder']}, not {path.stem}; "
            "give the files of this feature set back their names."
        )
    return manifest


def tokens_digest(tokens: Sequence[str]) -> str:
    """Hash of item tokens in their order."""
    return hashlib.sha256(json.dumps(list(tokens), ensure_ascii=False).encode()).hexdigest()


def check_tokens(tokens: Sequence[str], where: Path) -> list[str]:
    """`tokens` as a list of str, or a :class:`FeatureError` if one occurs twice."""
    plain = [str(token) for token in tokens]
    repeated = [token for token, count in Counter(plain).items() if count > 1]
    if repeated:
        raise FeatureError(
            f"{len(repeated)} item tokens for {where} occur more than once (first: "
            f"{repeated[0]}); keep one row per item."
        )
    return plain


def _load(info: FeatureInfo, tokens: Sequence[str], way_out: str) -> Features:
    path, manifest = info.path, read_manifest(info.path)
    stored = _read_tokens(path, manifest, way_out)
    try:
        if file_sha256(path) != manifest["matrix_sha256"]:
            raise FeatureError(
                f"{path} differs from the checksum in {_manifest_path(path).name}, so it is "
                f"damaged or was replaced; to make it again {way_out}."
            )
        # Mapped, so that only the requested rows take memory.
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FeatureError(
            f"{path} cannot be read as a plain array ({error}); to make it again {way_out}."
        ) from error
    if matrix.shape != (info.rows, info.dim) or len(stored) != info.rows:
        raise FeatureError(
            f"{path} has shape {matrix.shape} and {len(stored)} item tokens where its manifest "
            f"says [{info.rows}, {info.dim}]; to make it again {way_out}."
        )
    row_of = {token: row for row, token in enumerate(stored)}
    absent = [str(token) for token in tokens if token not in row_of]
    if absent:
        raise FeatureError(
            f"{path} lacks {len(absent)} of the {len(tokens)} items (first: "
            f"{', '.join(absent[:3])}); {way_out}, or make this file for all items."
        )
    rows = np.fromiter((row_of[token] for token in tokens), dtype=np.int64, count=len(tokens))
    values = _as_float32(matrix[rows], path)
    _check_finite(values, tokens, path)
    return Features(info.modality, info.encoder, values, info.checksum)


def _read_tokens(path: Path, manifest: Mapping[str, Any], way_out: str) -> list[str]:
    source = _tokens_path(path)
    try:
        tokens = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FeatureError(
            f"{source} cannot be read as a list of item tokens ({error}); to make it again "
            f"{way_out}."
        ) from error
    if not isinstance(tokens, list) or tokens_digest(tokens) != manifest["tokens_sha256"]:
        raise FeatureError(
            f"{source} differs from the checksum in {_manifest_path(path).name}, so rows cannot "
            f"be told apart; to make it again {way_out}."
        )
    return tokens


def _stored(directory: Path) -> dict[str, Path]:
    """Matrix paths by feature-set name; a set exists once its manifest does."""
    files = sorted((Path(directory) / FOLDER).glob("*.json"))
    return {file.stem: file.with_suffix(".npy") for file in files if "." not in file.stem}


def _info(path: Path) -> FeatureInfo:
    manifest = read_manifest(path)
    content = f"{manifest['matrix_sha256']}:{manifest['tokens_sha256']}"
    return FeatureInfo(
        modality=manifest["modality"],
        encoder=manifest["encoder"],
        path=path,
        dim=manifest["dim"],
        rows=manifest["rows"],
        checksum=hashlib.sha256(content.encode()).hexdigest(),
    )


def _as_float32(matrix: np.ndarray, path: Path) -> npt.NDArray[np.float32]:
    kind = np.asarray(matrix).dtype
    if kind.kind not in "fiu":
        raise FeatureError(f"{path} holds values of type {kind}; features must be real numbers.")
    with np.errstate(over="ignore"):  # what does not fit becomes inf, which _check_finite reports
        return np.ascontiguousarray(matrix, dtype=np.float32)


def _check_finite(values: np.ndarray, tokens: Sequence[str], path: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise FeatureError(
            f"{path} holds NaN or infinity in the rows of {bad.size} items (first: "
            f"{tokens[bad[0]]}); fill or drop them before saving features."
        )


def _tokens_path(path: Path) -> Path:
    return path.with_suffix(".tokens.json")


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")
