"""What a dataset reads beside its users, items and their order, as a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

_END = b"\x00"


def columns_hash(
    frames: Mapping[str, pd.DataFrame | None],
    links: Mapping[str, str] | None = None,
    left_out: Iterable[str] = (),
) -> str | None:
    """Hash of columns of interactions, items, users and a knowledge graph.

    Parameters
    ----------
    frames : mapping of str to DataFrame
        By the kind of file; None for a file that is not read. Rows count in their order, since ids
        follow it.
    links : mapping of str to str, optional
        Entities of items.
    left_out : iterable of str
        Columns that the run's identity has in another form.

    Returns
    -------
    str or None
        None if nothing is read.
    """
    omitted = set(left_out)
    read = {kind: frame for kind, frame in frames.items() if frame is not None}
    columns = {
        kind: sorted(set(map(str, frame)) - (omitted if kind == "inter" else set()))
        for kind, frame in read.items()
    }
    if not any(columns.values()) and not links:
        return None
    digest = hashlib.sha256()
    for kind, frame in sorted(read.items()):
        for name in columns[kind]:
            digest.update(f"{kind}/{name}".encode() + _END)
            for text in _texts(frame[name]):
                digest.update(text.encode() + _END)
    for item, entity in sorted((links or {}).items()):
        digest.update(f"{item}\t{entity}".encode() + _END)
    return digest.hexdigest()


def _texts(column: pd.Series) -> Iterator[str]:
    for value in column.tolist():
        yield repr(_plain(value))


def _plain(value: Any) -> Any:
    """A value as plain Python objects, whatever library read it."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
