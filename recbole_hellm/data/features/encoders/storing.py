"""From an encoder's vectors to stored features, the same for texts and pictures."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from recbole_hellm.data.features.encoders.base import BatchEncoder, TextEncoder
from recbole_hellm.data.features.encoders.resumable import Partial, encode_batches
from recbole_hellm.data.features.feature_files import read_manifest, read_set, tokens_digest
from recbole_hellm.data.features.filling import filled
from recbole_hellm.data.features.store import save_features
from recbole_hellm.errors import FeatureError
from recbole_hellm.storage.files import remove_leftovers, writing
from recbole_hellm.storage.locks import locked

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_WAIT = 6 * 3600.0  # seconds for another process that makes the same features


def is_current(path: Path, tokens: Sequence[str], recipe: Mapping[str, Any]) -> bool:
    """Whether the stored features `path` are intact, of these items, and made by `recipe`."""
    if not path.exists():
        return False
    try:
        manifest = read_manifest(path)
        read_set(path)
    except FeatureError as error:
        logger.warning("Encoding again: %s", error)
        return False
    stored = {**(manifest.get("details") or {}), **manifest}
    return manifest["tokens_sha256"] == tokens_digest(tokens) and all(
        stored.get(key) == value for key, value in recipe.items()
    )


@contextlib.contextmanager
def making(
    path: Path, tokens: Sequence[str], recipe: Mapping[str, Any], encoder: str, force: bool
) -> Iterator[bool]:
    """Find out whether features have to be made, and keep other processes from making them.

    If another process makes them, this one waits, and most often finds them current then.

    Parameters
    ----------
    path : Path
        The feature matrix.
    tokens, recipe
        See :func:`is_current`.
    encoder : str
        The encoder as the user requested it, see :func:`check_own`.
    force : bool
        Make them in any case.

    Yields
    ------
    bool
        Whether they have to be made.

    Raises
    ------
    FeatureError
        If features of another origin are there, or another process takes too long.
    """
    remove_leftovers(path.parent)
    if not force and is_current(path, tokens, recipe):
        _clear(path)
        logger.info("%s is there and current; nothing to encode.", path)
        yield False
        return
    with _taking_turns(path):
        if not force and is_current(path, tokens, recipe):
            logger.info("%s was made by another process meanwhile.", path)
            yield False
            return
        if not force:
            check_own(path, encoder, recipe["revision"])
        yield True


@contextlib.contextmanager
def _taking_turns(path: Path) -> Iterator[None]:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)

    def tell() -> None:
        logger.warning("Another process makes %s; waiting for it.", path)

    with locked(path.with_suffix(".lock"), _busy(path), LONGEST_WAIT, tell):
        yield


def _busy(path: Path) -> FeatureError:
    return FeatureError(
        f"{path} is being made by another process; wait until that has finished, or end it."
    )


def _clear(path: Path) -> None:
    """Remove what an encoding left that was killed after it had saved its features."""
    partial = path.with_suffix(".partial")
    left = (partial, *(partial.with_name(f"{partial.name}.{end}") for end in ("progress", "lock")))
    with contextlib.suppress(FeatureError, OSError):  # another process is busy, or may not write
        if any(map(Path.exists, left)):
            with Partial(partial, {}) as files:
                files.discard()
        if path.with_suffix(".lock").exists():
            with locked(path.with_suffix(".lock"), _busy(path)):
                pass


def check_own(path: Path, encoder: str, revision: str) -> None:
    """Check that `encoder` may write the features `path` without losing a set of another origin.

    A set is the encoder's own, whatever its items, texts or pictures, if it has the encoder's
    revision or its manifest names the same encoder. If the manifest names no encoder, the set is
    its own if the manifest has a template: imported sets have none.

    Parameters
    ----------
    path : Path
        The future feature matrix.
    encoder : str
        The encoder as the user requested it.
    revision : str
        Its revision.

    Raises
    ------
    FeatureError
        If a set of another origin is there.
    """
    if not path.with_suffix(".json").is_file():
        return
    try:
        manifest = read_manifest(path)
    except FeatureError:  # is_current has warned of it
        return
    details = manifest.get("details") or {}
    name, requested = manifest["encoder"], details.get("requested_encoder")
    if requested is None:
        same_encoder, origin = manifest.get("template") is not None, "came from elsewhere"
    else:
        same_encoder = _canonical(requested, name) == _canonical(encoder, name)
        origin = f"was made by {requested}"
    if same_encoder or manifest.get("revision") == revision:
        return
    modality = manifest["modality"]
    raise FeatureError(
        f"{path} {origin}, not by {modality} encoder {encoder}, and is kept; replace it with "
        f"`recbole-hellm encode --{modality}_encoder={encoder} --force`, import it under another "
        f"--encoder name, or use it as it is with --features='[{path.stem}]'."
    )


def _canonical(encoder: str, name: str) -> str:
    """One spelling of an encoder whose features are called `name`."""
    if encoder == "auto":
        return name
    folder = Path(encoder).expanduser()
    return str(folder.resolve()) if folder.is_dir() else encoder


@contextlib.contextmanager
def encoded(
    encoder: TextEncoder | BatchEncoder[T],
    inputs: Sequence[T],
    path: Path,
    recipe: Mapping[str, str | int],
    sizes: Sequence[int] | None = None,
    progress: bool = True,
) -> Iterator[npt.NDArray[np.float32]]:
    """The vectors of `inputs`, [N, D]; the files for resuming are removed after the block.

    An encoder without batches gets all inputs at once and cannot be resumed.

    Parameters
    ----------
    encoder : TextEncoder or BatchEncoder
    inputs : sequence
        N inputs, at least one.
    path : Path
        The future feature matrix; finished batches are stored beside it.
    recipe : mapping
        Everything that decides the vectors except the encoder's batches and precision.
    sizes, progress
        See :func:`recbole_hellm.data.features.encoders.resumable.encode_batches`.

    Raises
    ------
    FeatureError
        If encoding fails or finished batches cannot be stored.
    """
    if not isinstance(encoder, BatchEncoder):
        yield encoder.encode(list(inputs))  # type: ignore[arg-type]
        return
    full_recipe = {**recipe, **rounding(encoder), "name": encoder.name}
    with Partial(path.with_suffix(".partial"), full_recipe) as partial:
        yield encode_batches(encoder, inputs, partial, sizes, progress)
        partial.discard()


def rounding(encoder: object) -> dict[str, str | int]:
    """What decides the last bits of the vectors; empty for an encoder without batches."""
    if not isinstance(encoder, BatchEncoder):
        return {}
    return {"batch_size": encoder.batch_size, "precision": encoder.precision}


def save_filled(
    directory: Path,
    modality: str,
    encoder: str,
    tokens: Sequence[str],
    present: npt.NDArray[np.bool_],
    vectors: npt.NDArray[np.float32],
    details: Mapping[str, Any],
) -> Path:
    """Store features in which items without a vector get the mean of the others.

    The released code also fills with a mean, but takes it over all rows while the missing ones are
    still zero (docs/method.md, Item images): the more items are missing, the shorter its fill
    vector. Here it is the mean of the existing vectors.

    Parameters
    ----------
    directory, modality, encoder, tokens
        See :func:`recbole_hellm.data.features.store.save_features`.
    present : ndarray
        bool [N]; which items have a vector. At least one must have one.
    vectors : ndarray
        float32 [n, D], the vectors of the n items that have one, in the order of `tokens`.
    details : mapping
        Origin of the rows; ``missing`` is added.

    Returns
    -------
    Path
        The ``.npy`` file.
    """
    matrix = vectors if present.all() else filled(present, vectors)
    missing = [token for token, exists in zip(tokens, present, strict=True) if not exists]
    return save_features(
        directory, modality, encoder, tokens, matrix, {**details, "missing": missing}
    )
