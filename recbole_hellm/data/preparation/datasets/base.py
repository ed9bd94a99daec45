"""What a dataset family is: datasets of one origin, known by name and read the same way."""

from __future__ import annotations

import abc
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from recbole_hellm.data.downloads.http import KnownFile
from recbole_hellm.data.preparation.column_roles import TABLE, Layout
from recbole_hellm.data.preparation.delimited_text import ANY_TEXT, TextFormat
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.data.preparation.table_files import TableFile
from recbole_hellm.data.preparation.table_readers import read_interactions, read_item_table

logger = logging.getLogger(__name__)

Totals = Mapping[str, Mapping[str, int]]


@dataclasses.dataclass(frozen=True)
class RawFile:
    """A raw file of a dataset.

    Attributes
    ----------
    name : str
        Name of the unpacked file.
    packed : str, optional
        Name of the file that is downloaded, where it is another: a gzipped one, or a zip archive
        that holds this file.
    addresses : tuple of str
        Addresses of the downloaded file, the preferred first; ``{file}`` stands for its name.
    text_format : TextFormat
        How it is written if it is delimited text.
    known : KnownFile, optional
        Size and checksum of the downloaded file, where they are known.
    """

    name: str
    packed: str | None = None
    addresses: tuple[str, ...] = ()
    text_format: TextFormat = ANY_TEXT
    known: KnownFile | None = None

    @property
    def downloaded(self) -> str:
        """Name of the file that is downloaded."""
        return self.packed or self.name


class DatasetFamily(abc.ABC):
    """Datasets of one origin: their names, files and addresses, and how their rows are read.

    A subclass needs `name`, `datasets` and :meth:`files`. The readers take tables whose columns
    `layout` or their names explain; override them where the raw rows need more.

    Attributes
    ----------
    name : str
        Name of the family, for ``--family`` and as a key in lists of mirrors.
    datasets : mapping
        Names of the datasets, each with its known totals: a mapping of ``users``, ``items`` and
        ``interactions`` to numbers, or an empty one.
    layout : Layout
        What the columns of the raw files mean.
    k_core : int, optional
        Keep users and items with this many interactions, unless ``--k_core`` says another number.
    citation : str
        The publication to cite.
    own_folder : bool
        Whether downloads go to a subfolder named like the dataset, because raw files of two
        datasets may share a name.
    """

    name: ClassVar[str]
    datasets: ClassVar[Totals]
    layout: ClassVar[Layout] = TABLE
    k_core: ClassVar[int | None] = None
    citation: ClassVar[str] = ""
    own_folder: ClassVar[bool] = True

    @abc.abstractmethod
    def files(self, dataset: str) -> Mapping[str, RawFile]:
        """Raw files of a dataset.

        Returns
        -------
        mapping of str to RawFile
            By names such as ``ratings`` and ``movies``. The readers below take interactions from
            the first, and texts of items from the second if there is one.
        """

    def folders(self, dataset: str) -> tuple[str, ...]:
        """Subfolders of a raw folder in which the files may lie, '' for the folder itself."""
        return (dataset, "")

    def read_interactions(
        self,
        dataset: str,
        paths: Mapping[str, Path],
        progress: bool = True,
        counts: RowCounts | None = None,
    ) -> pd.DataFrame:
        """Read the interactions.

        Parameters
        ----------
        dataset : str
        paths : mapping of str to Path
            The files, by the names that :meth:`files` gives them.
        progress : bool
            Show progress bars.
        counts : RowCounts, optional
            Filled with what became of the rows. A subclass need not take it.

        Returns
        -------
        DataFrame
            Columns user_id and item_id (str), and timestamp (a number), rows in any order.

        Raises
        ------
        DataError
            If a file is malformed, with the line at fault.
        """
        part, *_ = self.files(dataset)
        return read_interactions(self._table(dataset, part, paths), self.layout, progress, counts)

    def read_items(
        self,
        dataset: str,
        paths: Mapping[str, Path],
        wanted: set[str],
        progress: bool = True,
        counts: RowCounts | None = None,
    ) -> pd.DataFrame | None:
        """Read the texts of items.

        Parameters
        ----------
        dataset, paths, progress, counts
            See :meth:`read_interactions`.
        wanted : set of str
            Items that have interactions; others may be left out.

        Returns
        -------
        DataFrame or None
            Column item_id and any of title, brand, categories (list of str), description and
            image, a row for an item at most; None if the dataset has no such table.

        Raises
        ------
        DataError
            If a file is malformed, with the line at fault.
        """
        _, *parts = self.files(dataset)
        if not parts:
            return None
        table = self._table(dataset, parts[0], paths)
        return read_item_table(table, wanted, self.layout, progress, counts)

    def notes(self, dataset: str) -> dict[str, Any]:
        """What the dataset's manifest should note of its origin."""
        return {"family": self.name}

    def summary(self) -> str:
        """The names of the datasets, in a few words."""
        return ", ".join(self.datasets)

    def check_totals(self, dataset: str, manifest: Mapping[str, Any]) -> None:
        """Warn if a prepared dataset does not have the totals that are known of it."""
        known = self.datasets[dataset]
        counted = {key: manifest[key] for key in known}
        if counted != known:
            logger.warning(
                "'%s' holds %s where the published files hold %s; do not compare results on it "
                "with published ones.",
                dataset,
                _in_words(counted),
                _in_words(known),
            )

    def _table(self, dataset: str, part: str, paths: Mapping[str, Path]) -> TableFile:
        return TableFile(paths[part], self.files(dataset)[part].text_format)


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {key}" for key, count in counts.items())
