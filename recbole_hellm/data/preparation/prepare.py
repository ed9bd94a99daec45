"""Prepare datasets, by name or from the user's own files."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_hellm.config.settings import require
from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.preparation.assembling import Reading, assemble
from recbole_hellm.data.preparation.bundled_sample import NAME as SAMPLE
from recbole_hellm.data.preparation.bundled_sample import write_sample
from recbole_hellm.data.preparation.column_roles import TABLE, Layout, recognise
from recbole_hellm.data.preparation.datasets.base import DatasetFamily
from recbole_hellm.data.preparation.datasets.families import families, family_of
from recbole_hellm.data.preparation.datasets.raw_files import raw_files
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.data.preparation.settings import AUTO, PrepareSettings
from recbole_hellm.data.preparation.table_files import TableFile
from recbole_hellm.data.preparation.table_readers import (
    item_ids,
    read_interactions,
    read_item_table,
)
from recbole_hellm.data.preparation.versions import VERSIONS, Replacing
from recbole_hellm.errors import ConfigError, DataError, nearest

logger = logging.getLogger(__name__)

_LONGEST = 200  # bytes of a name; file systems take 255, suffixes included


def prepare(
    name: str, directory: Path, settings: PrepareSettings, progress: bool = True
) -> dict[str, Any]:
    """Make the atomic files of a dataset: from the user's files if `settings` name some.

    Parameters
    ----------
    name : str
        The dataset's name.
    directory : Path
        Folder for its files.
    settings : PrepareSettings
    progress : bool
        Show progress bars.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ConfigError, DataError
        See :func:`prepare_files` and :func:`prepare_dataset`.
    """
    if settings.interactions is not None:
        return prepare_files(name, directory, settings, progress)
    raw_dir = Path(settings.raw_dir) if settings.raw_dir else None
    mirrors = Mirrors(settings.mirrors)
    return prepare_dataset(
        name,
        directory,
        raw_dir,
        mirrors,
        settings.k_core,
        settings.family,
        progress,
        settings.replacing,
        settings.allow_dropped,
        settings.allow_unmatched,
    )


def prepare_dataset(
    name: str,
    directory: Path,
    raw_dir: Path | None = None,
    mirrors: Mirrors | None = None,
    k_core: int | None = None,
    family: str | None = None,
    progress: bool = True,
    replacing: Replacing | None = None,
    allow_dropped: bool = True,
    allow_unmatched: bool = True,
) -> dict[str, Any]:
    """Make the atomic files of a dataset that is known by name.

    Parameters
    ----------
    name, directory : str, Path
        The dataset's name, and the folder for its files.
    raw_dir, mirrors : Path, Mirrors, optional
        See :func:`recbole_hellm.data.preparation.datasets.raw_files.raw_files`.
    k_core : int, optional
        See :func:`recbole_hellm.data.preparation.kcore.k_core`.
    family : str, optional
        Name or import path of the dataset's family; by default the first one that has it.
    progress : bool
        Show progress bars.
    replacing : Replacing, optional
        Whether other data may be replaced; by default it is.
    allow_dropped, allow_unmatched : bool
        Accept that more than a tenth of the rows are defective, or of the items without a row.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ConfigError
        If `family` is unknown or does not have the dataset.
    DataError
        If the name is unknown, raw files are missing and cannot be downloaded, or malformed, or
        other data must not be replaced.
    StorageError
        If the folder cannot be written to.
    """
    _check_folder(directory)
    if name == SAMPLE and family is None:
        require(k_core is None, "k_core is not for the sample; remove it.")
        return write_sample(directory, replacing)
    chosen = family_of(name, family)
    if chosen is not None:
        reading = Reading(
            allow_dropped=allow_dropped,
            allow_unmatched=allow_unmatched,
            replacing=replacing or Replacing(),
        )
        return _prepare_raw(chosen, name, directory, raw_dir, mirrors, k_core, progress, reading)
    known = list(families())
    names = [SAMPLE, *(dataset for known_family in known for dataset in known_family.datasets)]
    raise DataError(
        f"Unknown dataset '{name}'{nearest(name, names)} use one of {SAMPLE}, "
        f"{', '.join(known_family.summary() for known_family in known)}; make it from files of "
        f"your own with `recbole-hellm prepare --dataset={name} --interactions=FILE`; or put "
        f"RecBole atomic files into {directory}."
    )


def prepare_files(
    name: str, directory: Path, settings: PrepareSettings, progress: bool = True
) -> dict[str, Any]:
    """Make the atomic files of a dataset from the user's tables of interactions and of items.

    Parameters
    ----------
    name, directory, settings, progress
        See :func:`prepare`; the table of items is optional.

    Returns
    -------
    dict
        The manifest; its notes name the layout of the interactions.

    Raises
    ------
    ConfigError
        If the name belongs to a dataset that is known by name, or cannot name a folder.
    DataError
        If a file is missing or malformed, or a column is not found.
    """
    require(settings.interactions is not None, "prepare_files needs interactions.")
    if name == SAMPLE or family_of(name) is not None:
        raise ConfigError(
            f"'{name}' is a dataset that this package makes; give yours another name, for "
            f"example --dataset=my{name}."
        )
    _check_name(name)
    _check_folder(directory)
    source = Path(str(settings.interactions)).expanduser()
    file = TableFile(source, settings.interactions_format)
    layout = _layout(settings, file)
    counts = RowCounts()
    interactions = read_interactions(file, layout, progress, counts)
    reading = Reading(
        counts,
        RowCounts(),
        settings.allow_dropped,
        settings.allow_unmatched,
        replacing=settings.replacing,
    )
    sources = [source]
    read_items: Callable[[set[str]], pd.DataFrame] | None = None
    if settings.items is not None:
        table = _ItemTable(
            TableFile(Path(settings.items).expanduser(), settings.items_format),
            layout,
            progress,
            reading.items,
        )
        sources.append(table.file.path)
        read_items = table.read
        reading = dataclasses.replace(reading, other_ids=table.other_ids)
    notes = {"layout": layout.name}
    return assemble(
        name, directory, interactions, read_items, sources, notes, settings.k_core, reading
    )


@dataclasses.dataclass(frozen=True)
class _ItemTable:
    """The user's table of items."""

    file: TableFile
    layout: Layout
    progress: bool
    counts: RowCounts

    def read(self, wanted: set[str]) -> pd.DataFrame:
        """Texts of the wanted items; raises :class:`DataError` if there are none."""
        items = read_item_table(self.file, wanted, self.layout, self.progress, self.counts)
        if items.empty:
            there = ", ".join(itertools.islice(self.other_ids(wanted), 3))
            raise DataError(
                f"{self.file.path} has none of the {len(wanted)} items with interactions (ids such "
                f"as {there} there, {', '.join(sorted(wanted)[:3])} here); correct --item_column "
                "or --items_item_column, or name another file."
            )
        return items

    def other_ids(self, wanted: set[str]) -> Iterator[str]:
        """Ids of the other items."""
        return (token for token in item_ids(self.file, self.layout) if token not in wanted)


def _check_name(name: str) -> None:
    """Check that a name can be a folder's; raises :class:`ConfigError`."""
    forbidden = name in (".", "..", VERSIONS) or set(name) & set("/\\:[]")
    length = len(name.encode("utf-8", "replace"))
    if forbidden or not name.strip() or not name.isprintable() or length > _LONGEST:
        raise ConfigError(f"--dataset={name!a:.80} cannot name a folder; use letters and digits.")


def _check_folder(directory: Path) -> None:
    """Check that no file is in a folder's place; raises :class:`DataError`."""
    for path in (directory, *directory.parents):
        try:
            is_file = path.exists() and not path.is_dir()
        except (OSError, ValueError) as error:  # a name that is too long, or has a null character
            raise ConfigError(
                f"{str(directory)!a:.80} cannot name a folder ({error}); correct --data_path."
            ) from error
        if is_file:
            raise DataError(f"{path} is a file, and a folder must be there; correct --data_path.")


def ensure_dataset(config: Any) -> None:
    """Prepare `config`'s dataset if its interactions are not there."""
    directory, name = config.dataset_directory, config["dataset"]
    if not (directory / f"{name}.inter").is_file():
        logger.info("Preparing dataset '%s' in %s.", name, directory)
        raw_dir = Path(config["raw_dir"]) if config["raw_dir"] else None
        prepare_dataset(name, directory, raw_dir, Mirrors(config["mirrors"]))


def _prepare_raw(
    family: DatasetFamily,
    name: str,
    directory: Path,
    raw_dir: Path | None,
    mirrors: Mirrors | None,
    k_core: int | None,
    progress: bool,
    reading: Reading,
) -> dict[str, Any]:
    paths = raw_files(family, name, directory, raw_dir, mirrors, progress)
    counting = {"counts": reading.interactions} if _counts(family.read_interactions) else {}
    item_counting = {"counts": reading.items} if _counts(family.read_items) else {}
    interactions = family.read_interactions(name, paths, progress, **counting)
    notes = {**family.notes(name), "layout": family.layout.name}
    manifest = assemble(
        name,
        directory,
        interactions,
        lambda wanted: family.read_items(name, paths, wanted, progress, **item_counting),
        list(paths.values()),
        notes,
        family.k_core if k_core is None else k_core,
        reading,
    )
    family.check_totals(name, manifest)
    if family.citation:
        logger.info("Cite for '%s': %s.", name, family.citation)
    return manifest


def _counts(reader: Callable[..., Any]) -> bool:
    """Whether a family's reader counts rows; those of other packages need not."""
    return "counts" in inspect.signature(reader).parameters


def _layout(settings: PrepareSettings, file: TableFile) -> Layout:
    """The layout that `settings` name or the file shows, with the columns that they name."""
    layouts = {TABLE.name: TABLE} | {family.layout.name: family.layout for family in families()}
    if settings.layout == AUTO:
        layout = recognise(file.columns, layouts.values())
    else:
        require(
            settings.layout in layouts,
            f"layout='{settings.layout}' is not allowed; use one of {', '.join((AUTO, *layouts))}.",
        )
        layout = layouts[settings.layout]
    return dataclasses.replace(
        layout,
        user=settings.user_column or layout.user,
        item=settings.item_column or layout.item,
        time=settings.time_column or layout.time,
        items_item=settings.items_item_column,
        time_format=settings.time_format,
        texts=settings.text_columns,
    )
