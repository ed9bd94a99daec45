"""Checkpoints: files of tensors and plain values with a checksum of their own."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recbole_hellm.errors import HellmError, reason
from recbole_hellm.storage.checksums import append_checksum, fits_appended_checksum
from recbole_hellm.storage.files import atomic_path

# What torch's unpickler meets in a damaged file that has no checksum.
_UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError, KeyError, IndexError),
    *(AttributeError, TypeError, AssertionError, OverflowError),
)


def save(path: Path, state: Mapping[str, Any], subject: str) -> None:
    """Write a checkpoint atomically.

    Parameters
    ----------
    path : Path
    state : mapping
        Tensors and plain values only.
    subject : str
        What it is the checkpoint of.
    """
    with atomic_path(path) as temporary:
        # torch.save would write the temporary file's random name into the file.
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
        append_checksum(temporary, subject)


def check(path: Path, subject: str, error: type[HellmError], way_out: str) -> None:
    """Check that a checkpoint is as it was written; one without a checksum passes.

    Parameters
    ----------
    path : Path
    subject : str
        What it has to be the checkpoint of.
    error, way_out : type, str
        What is raised, and the end of its sentence.

    Raises
    ------
    HellmError
        If it is missing, damaged, or the checkpoint of something else.
    """
    try:
        fits = fits_appended_checksum(path, subject)
    except FileNotFoundError as cause:
        raise error(f"Checkpoint {path} does not exist; {way_out}.") from cause
    except OSError as cause:
        raise error(f"Checkpoint {path} cannot be read ({reason(cause)}); {way_out}.") from cause
    if not fits:
        raise error(f"Checkpoint {path} is damaged (its checksum differs); {way_out}.")


def load(
    path: Path, device: torch.device | str, error: type[HellmError], way_out: str
) -> dict[str, Any]:
    """Load a checkpoint, which can run no code (``weights_only=True``).

    Parameters
    ----------
    path : Path
    device : torch.device or str
        Where tensors go.
    error, way_out : type, str
        What is raised, and the end of its sentence.

    Raises
    ------
    HellmError
        If it is missing or cannot be read.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except FileNotFoundError as cause:
        raise error(f"Checkpoint {path} does not exist; {way_out}.") from cause
    except _UNREADABLE as cause:
        raise error(f"Checkpoint {path} is damaged ({reason(cause)}); {way_out}.") from cause
    if not isinstance(state, dict):
        raise error(f"Checkpoint {path} is damaged (it holds no state); {way_out}.")
    return state
