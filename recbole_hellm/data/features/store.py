"""The feature store: item features as plain arrays beside the interactions.

One feature set is three files in ``<dataset directory>/features``:

- ``<modality>-<encoder>.npy``: the matrix, float32 [N, D], readable without pickle;
- ``<modality>-<encoder>.tokens.json``: the N item tokens in row order;
- ``<modality>-<encoder>.json``: the manifest (where the rows come from, and checksums), see
  :mod:`recbole_hellm.data.features.feature_files`.

Rows are found by item token, so features never touch a dataset's id map, and a dataset filtered
or ordered differently still reads the right rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_hellm.data.features.feature_files import (
    manifest_path,
    on_request,
    read_manifest,
    read_set,
    tokens_digest,
    tokens_path,
)
from recbole_hellm.data.features.filling import filled
from recbole_hellm.errors import FeatureError
from recbole_hellm.storage.checksums import FILES, file_sha256, sealed
from recbole_hellm.storage.files import atomic_paths

logger = logging.getLogger(__name__)

FOLDER = "features"
LIFTED = ("revision", "template", "missing")  # details with a manifest field of their own


@dataclasses.dataclass(frozen=True)
class FeatureInfo:
    """One stored feature set of N = `rows` items and D = `dim` dimensions, from its manifest.

    `path` is the ``.npy`` file; `checksum` is a hash over it and the order of its item tokens;
    `on_request` tells a set that is read only where it is named.
    """

    modality: str
    encoder: str
    path: Path
    dim: int
    rows: int
    checksum: str
    on_request: bool = False

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
        JSON-serialisable origin of the rows. ``revision``, ``template``, ``missing`` (the item
        tokens whose row was filled in) and ``saved_at`` (Unix seconds, by default now) become
        manifest fields, the rest goes under ``details``.

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
    targets = (path, tokens_path(path), manifest_path(path))
    with atomic_paths(targets) as (staged_matrix, staged_tokens, staged_manifest):
        with staged_matrix.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        staged_tokens.write_bytes(json.dumps(tokens, ensure_ascii=False).encode())
        matrix_sha256 = file_sha256(staged_matrix)
        manifest = {
            "modality": modality,
            "encoder": encoder,
            **lifted,
            "missing": list(lifted["missing"] or []),
            "rows": values.shape[0],
            "dim": values.shape[1],
            "matrix_sha256": matrix_sha256,
            "tokens_sha256": tokens_digest(tokens),
            "saved_at": rest.pop("saved_at", time.time()),
            "details": rest,
            FILES: {path.name: matrix_sha256, tokens_path(path).name: file_sha256(staged_tokens)},
        }
        plain = json.loads(json.dumps(manifest))  # refuses what JSON cannot hold
        text = json.dumps(sealed(plain), indent=2) + "\n"
        staged_manifest.write_bytes(text.encode())
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
        Feature sets such as ``["text-minilm", "image-synthetic"]``; by default one of every
        modality that is there, see :func:`choose_features`.

    Returns
    -------
    dict of str to Features
        By modality, in the order of `names`, else sorted. Items without a row get the mean of the
        others, and a warning says how many they are.

    Raises
    ------
    FeatureError
        If a set is absent, damaged, named beside another one of its modality, lacks most items, or
        holds a NaN or infinity.
    """
    directory = Path(directory)
    stored = _stored(directory)
    way_out = f"run `recbole-hellm encode --dataset={directory.name}`"
    if names is None:
        names = choose_features(directory)
        if not names:
            raise FeatureError(f"{directory / FOLDER} holds no item features; {way_out}.")
    chosen: dict[str, FeatureInfo] = {}
    for name in names:
        if name not in stored:
            raise FeatureError(
                f"{directory / FOLDER / name}.npy does not exist or has no manifest; choose among "
                f"{', '.join(stored) or 'nothing yet'} with --features, or {way_out}."
            )
        info = _info(stored[name])
        if info.modality in chosen:
            rest = [other for other in names if other not in (name, chosen[info.modality].name)]
            raise FeatureError(
                f"--features names {chosen[info.modality].name} and {name} for the one modality "
                f"{info.modality}; name one of them, for example "
                f"--features='[{', '.join([name, *rest])}]'."
            )
        chosen[info.modality] = info
    return {modality: _load(info, tokens) for modality, info in chosen.items()}


def choose_features(directory: Path, preferred: str | None = None) -> list[str]:
    """One feature set of each modality: the preferred one, else the newest.

    Sets that the item input ``language`` made are left out, which would otherwise change what the
    dataset's other models read.

    Parameters
    ----------
    directory : Path
        The dataset directory.
    preferred : str, optional
        A set that is taken if it is there, for example ``text-minilm``.

    Returns
    -------
    list of str
        Names, sorted by modality.

    Raises
    ------
    FeatureError
        If a manifest that is needed to choose cannot be read.
    """
    by_modality: dict[str, list[str]] = {}
    stored = _stored(directory)
    for name, path in stored.items():
        if not on_request(path):
            by_modality.setdefault(name.partition("-")[0], []).append(name)
    names = [
        same[0]
        if len(same) == 1
        else preferred
        if preferred in same
        else max(same, key=lambda name: (_saved_at(stored[name]), name))
        for same in by_modality.values()
    ]
    for name, same in zip(names, by_modality.values(), strict=True):
        if len(same) > 1:
            logger.warning(
                "%s has the sets %s of one modality; %s is taken, %s (--features='[%s]' takes the "
                "same ones whatever is added).",
                *(Path(directory) / FOLDER, ", ".join(same), name),
                "which the text encoder names" if name == preferred else "the newest",
                ", ".join(names),
            )
    return names


def features_fingerprint(features: Mapping[str, Features]) -> str:
    """Hash of what the features hold, independent of modality order and of item order."""
    parts = sorted((modality, feature.checksum) for modality, feature in features.items())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def verify_features(directory: Path) -> list[tuple[Path, str]]:
    """Check all feature files of a dataset directory.

    Returns
    -------
    list of tuple
        The matrix of each damaged set, and what is wrong with it.
    """
    found = []
    for path in _stored(directory).values():
        try:
            read_set(path)
        except FeatureError as error:
            found.append((path, str(error)))
    return found


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


def _load(info: FeatureInfo, tokens: Sequence[str]) -> Features:
    stored, matrix = read_set(info.path)
    row_of = {token: row for row, token in enumerate(stored)}
    known = [token for token in tokens if token in row_of]
    if len(known) < len(tokens):
        _tell_missing(info.path, tokens, row_of)
    rows = np.fromiter((row_of[token] for token in known), dtype=np.int64, count=len(known))
    values = _as_float32(matrix[rows], info.path)
    _check_finite(values, known, info.path)
    if len(known) < len(tokens):
        before = set(read_manifest(info.path).get("missing") or ())
        own = np.array([token not in before for token in known])
        values = filled(np.array([token in row_of for token in tokens]), values, own)
    return Features(info.modality, info.encoder, values, info.checksum)


def _tell_missing(path: Path, tokens: Sequence[str], known: Collection[str]) -> None:
    """Warn of items without a row; an error if they are most of all items."""
    missing = [str(token) for token in tokens if token not in known]
    counted = f"{len(missing):,} of the {len(tokens):,} items (first: {', '.join(missing[:3])})"
    if 2 * len(missing) > len(tokens):
        directory = path.parent.parent
        raise FeatureError(
            f"{path} lacks {counted}, so it is most likely another dataset's; give these items "
            f"rows in {directory / directory.name}.item and encode again, or import features of "
            "this dataset."
        )
    logger.warning("%s lacks %s, which get the mean of the others.", path, counted)


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
        on_request=on_request(path),
    )


def _saved_at(path: Path) -> float:
    """When a set was saved; that of earlier versions, by the time of its manifest."""
    saved_at = read_manifest(path).get("saved_at")
    return manifest_path(path).stat().st_mtime if saved_at is None else float(saved_at)


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
