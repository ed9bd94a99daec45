"""Make the files of a dataset from interactions and texts, wherever they come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_hellm.data.features.store import FOLDER, list_features
from recbole_hellm.data.preparation.atomic import (
    IMAGE,
    TEXT_COLUMNS,
    write_atomic_dataset,
)
from recbole_hellm.data.preparation.kcore import k_core as k_core_of
from recbole_hellm.data.preparation.manifest import describe_source
from recbole_hellm.data.preparation.packed_files import archive_of
from recbole_hellm.errors import DataError

logger = logging.getLogger(__name__)


def assemble(
    name: str,
    directory: Path,
    interactions: pd.DataFrame,
    read_items: Callable[[set[str]], pd.DataFrame | None] | None,
    sources: Sequence[Path],
    notes: Mapping[str, Any],
    k_core: int | None = None,
) -> dict[str, Any]:
    """Drop duplicates, take the k-core, add items' texts and write the dataset.

    Parameters
    ----------
    name, directory : str, Path
        See :func:`recbole_hellm.data.preparation.atomic.write_atomic_dataset`.
    interactions : DataFrame
        Columns user_id, item_id and timestamp. Rows that agree in all three count once.
    read_items : callable or None
        Takes the tokens of the items that are left and returns their texts, see
        :func:`recbole_hellm.data.preparation.atomic.write_atomic_dataset`.
    sources : sequence of Path
        Files from which the data comes.
    notes : mapping
        Other facts for the manifest.
    k_core : int, optional
        See :func:`recbole_hellm.data.preparation.kcore.k_core`.

    Returns
    -------
    dict
        The manifest; its notes count dropped duplicates and missing texts.

    Raises
    ------
    DataError
        If a column is absent, or the dataset cannot be written.
    """
    _check_columns(name, "interactions", interactions, ("user_id", "item_id", "timestamp"))
    rows = len(interactions)
    interactions = interactions.drop_duplicates(ignore_index=True)
    all_notes: dict[str, Any] = {**notes, "duplicates_dropped": rows - len(interactions)}
    if k_core is not None:
        all_notes |= {"k_core": k_core, "interactions_before_k_core": len(interactions)}
        interactions = k_core_of(interactions, k_core)
    tokens = set(interactions["item_id"].astype(str))
    items = None if read_items is None else read_items(tokens)
    if items is not None:
        _check_columns(name, "items", items, ("item_id",))
        items = items[items["item_id"].astype(str).isin(tokens)]
        all_notes["items_without_metadata"] = len(tokens) - len(items)
        for column in TEXT_COLUMNS:
            texts = items[column] if column in items else pd.Series(dtype=object)
            present = texts.notna() & texts.map(bool)
            all_notes[f"items_without_{column}"] = len(tokens) - int(present.sum())
    before = _texts(directory / f"{name}.item")
    # Members of one archive have one source.
    files = dict.fromkeys(archive_of(path) or path for path in sources)
    described = [describe_source(path) for path in files]
    manifest = write_atomic_dataset(name, interactions, items, directory, described, all_notes)
    if manifest["users_below_three"]:
        logger.warning(
            "%d users of '%s' have fewer than three interactions; they stay for training and have "
            "no validation or test item.",
            manifest["users_below_three"],
            name,
        )
    if before and before != _texts(directory / f"{name}.item") and list_features(directory):
        logger.warning(
            "The item texts of '%s' changed, but %s holds features of the earlier texts; "
            "`recbole-hellm encode --dataset=%s` makes new text features.",
            name,
            directory / FOLDER,
            name,
        )
    return manifest


def _check_columns(name: str, table: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    absent = [column for column in columns if column not in frame]
    if absent:
        raise DataError(
            f"The {table} of '{name}' have no column {', '.join(absent)}; give them one."
        )


def _texts(path: Path) -> list[bytes]:
    """Lines of an item table, without the addresses of pictures."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    if lines and lines[0].endswith(f"\t{IMAGE}:token".encode()):
        return [line.rpartition(b"\t")[0] for line in lines]
    return lines
