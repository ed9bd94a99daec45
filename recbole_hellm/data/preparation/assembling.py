"""Make the files of a dataset from interactions and texts, wherever they come from."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from recbole_hellm.data.preparation.manifest import describe_source, describe_table
from recbole_hellm.data.preparation.packed_files import archive_of
from recbole_hellm.data.preparation.row_counts import MOST_LOST, RowCounts
from recbole_hellm.data.preparation.table_readers import NOBODY
from recbole_hellm.data.preparation.versions import Replacing
from recbole_hellm.errors import DataError

logger = logging.getLogger(__name__)

_HARMLESS = (NOBODY, "blank", "further rows of an item")


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is known of the reading of a dataset's files, and what may be lost of them.

    Attributes
    ----------
    interactions, items : RowCounts
        What readers counted; the rest is counted by :func:`assemble`.
    allow_dropped, allow_unmatched : bool
        Accept that more than a tenth of the rows are defective, or of the items without a row.
    other_ids : callable
        Ids of the table of items that are not among given ones, for messages.
    replacing : Replacing
        Whether other data may be replaced.
    """

    interactions: RowCounts = dataclasses.field(default_factory=RowCounts)
    items: RowCounts = dataclasses.field(default_factory=RowCounts)
    allow_dropped: bool = True
    allow_unmatched: bool = True
    other_ids: Callable[[set[str]], Iterable[str]] = lambda _: ()
    replacing: Replacing = dataclasses.field(default_factory=Replacing)

    @staticmethod
    def file(sources: Sequence[Path], place: int) -> str:
        """Name of the file of interactions or of items, for the counts."""
        return sources[place].name if place < len(sources) else ("interactions", "items")[place]

    def check_dropped(self, table: str, counts: RowCounts) -> None:
        """Check how many rows the readers dropped for defects.

        Raises
        ------
        DataError
            If it is more than a tenth, unless that is allowed.
        """
        lost = {why: n for why, n in counts.dropped.items() if why not in _HARMLESS}
        if sum(lost.values()) > MOST_LOST * counts.read and not self.allow_dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in lost.items())
            raise DataError(
                f"{sum(lost.values()):,} of the {counts.read:,} rows of {table} are defective "
                f"({reasons}); correct the file, or leave them out with --allow_dropped."
            )

    def check_unmatched(self, tokens: set[str], known: set[str]) -> None:
        """Check how many items have a row in the table of items.

        Raises
        ------
        DataError
            If more than a tenth have none, unless that is allowed.
        """
        without = sorted(tokens - known)
        if len(without) <= MOST_LOST * len(tokens):
            return
        if self.allow_unmatched:
            logger.warning(
                "%s of the %s items with interactions have no row in the table of items.",
                f"{len(without):,}",
                f"{len(tokens):,}",
            )
        else:
            there = sorted(known - tokens)[:3] or list(itertools.islice(self.other_ids(tokens), 3))
            others = f", where ids such as {', '.join(there)} have no interactions" if there else ""
            raise DataError(
                f"{len(without):,} of the {len(tokens):,} items with interactions (such as "
                f"{', '.join(without[:3])}) have no row in the table of items{others}; write ids "
                "the same way in both files, or accept items without texts with --allow_unmatched."
            )


def assemble(
    name: str,
    directory: Path,
    interactions: pd.DataFrame,
    read_items: Callable[[set[str]], pd.DataFrame | None] | None,
    sources: Sequence[Path],
    notes: Mapping[str, Any],
    k_core: int | None = None,
    reading: Reading | None = None,
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
    reading : Reading, optional
        What is known of the reading of the files, and what may be lost of them.

    Returns
    -------
    dict
        The manifest; its notes count dropped duplicates and missing texts, its tables the rows of
        the files.

    Raises
    ------
    DataError
        If a column is absent, more is lost than may be, or the dataset cannot be written.
    StorageError
        If the folder cannot be written to.
    """
    reading = reading or Reading()
    counts = reading.interactions
    _check_columns(name, "interactions", interactions, ("user_id", "item_id", "timestamp"))
    rows = len(interactions)
    counts.read = counts.read or rows
    reading.check_dropped("interactions", counts)
    interactions = interactions.drop_duplicates(ignore_index=True)
    counts.add("duplicates", rows - len(interactions))
    all_notes: dict[str, Any] = {**notes, "duplicates_dropped": rows - len(interactions)}
    if k_core is not None:
        all_notes |= {"k_core": k_core, "interactions_before_k_core": len(interactions)}
        before_k_core = len(interactions)
        interactions = k_core_of(interactions, k_core)
        counts.add(f"outside the {k_core}-core", before_k_core - len(interactions))
    tokens = set(interactions["item_id"].astype(str))
    items = None if read_items is None else read_items(tokens)
    tables = [describe_table(reading.file(sources, 0), counts)]
    if items is not None:
        _check_columns(name, "items", items, ("item_id",))
        known = items["item_id"].astype(str)
        reading.items.read = reading.items.read or len(items)
        reading.items.add(NOBODY, int((~known.isin(tokens)).sum()))
        reading.check_dropped("items", reading.items)
        reading.check_unmatched(tokens, set(known))
        items = items[known.isin(tokens)]
        tables.append(describe_table(reading.file(sources, 1), reading.items))
        all_notes["items_without_metadata"] = len(tokens) - len(items)
        for column in TEXT_COLUMNS:
            texts = items[column] if column in items else pd.Series(dtype=object)
            present = texts.notna() & texts.map(bool)
            all_notes[f"items_without_{column}"] = len(tokens) - int(present.sum())
        if all(all_notes[f"items_without_{column}"] == len(tokens) for column in TEXT_COLUMNS):
            logger.warning(
                "No item of '%s' has a text, which models that read texts need; if a column holds "
                "texts, name it, for example with --title_column.",
                name,
            )
    before = _texts(directory / f"{name}.item")
    # Members of one archive have one source.
    files = dict.fromkeys(archive_of(path) or path for path in sources)
    described = [describe_source(path) for path in files]
    manifest = write_atomic_dataset(
        name, interactions, items, directory, described, all_notes, tables, reading.replacing
    )
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
