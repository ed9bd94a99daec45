"""Tables in delimited text: CSV, TSV and any other separator, with or without a header."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from recbole_hellm.data.preparation.packed_files import UNREADABLE, not_encoded, open_text
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.data.preparation.text_rows import Row, RowStream, TextRows
from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.storage.text_files import check_encoding

_SEPARATORS = "\t,;|"
_UNIT_SEPARATOR = "\x1f"  # stands for a separator of several characters


def _first_repeated(names: tuple[str, ...]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _can_divide(separator: str) -> bool:
    return bool(separator) and not set(separator) & set('\r\n"')


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """How a file of delimited text is written.

    Attributes
    ----------
    columns : tuple of str, optional
        Names of the columns of a file without a header; by default line 1 holds the names.
    separator : str, optional
        One or more characters between cells; by default the one of tab, comma, semicolon and bar
        that line 1 has most often.
    encoding : str
        Python's name of the encoding. A byte order mark of UTF-8 is skipped.
    quotes : bool
        Whether double quotes enclose cells. They never do where the separator has several
        characters.

    Raises
    ------
    ConfigError
        If two columns share a name, or there is no such separator or encoding.
    """

    columns: tuple[str, ...] | None = None
    separator: str | None = None
    encoding: str = "utf-8"
    quotes: bool = True

    def __post_init__(self) -> None:
        repeated = _first_repeated(self.columns or ())
        if repeated is not None:
            raise ConfigError(f"The columns include '{repeated}' twice; rename one of them.")
        if self.separator is not None and not _can_divide(self.separator):
            raise ConfigError(
                f"The separator {self.separator!r} cannot divide cells; use one or more characters "
                "other than line ends and double quotes."
            )
        check_encoding(self.encoding)

    @property
    def described(self) -> bool:
        """Whether columns or separator are given, so that a file must be delimited text."""
        return self.columns is not None or self.separator is not None


ANY_TEXT = TextFormat()
"""A header in line 1, and a common separator."""


@dataclasses.dataclass(frozen=True)
class DelimitedText:
    """A file of delimited text.

    Parameters
    ----------
    path : Path
    text_format : TextFormat
    """

    path: Path
    text_format: TextFormat = ANY_TEXT

    @functools.cached_property
    def header(self) -> list[str]:
        """The cells of line 1.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        with self._errors(), self._lines() as lines:
            parser = self._parser()
            first = next(parser.rows(lines), None)
            return [] if first is None else [cell.strip() for cell in parser.cells(first.text)]

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns; RecBole's ``user_id:token`` is ``user_id``.

        Raises
        ------
        DataError
            If line 1 cannot be read or names a column twice.
        """
        if self.text_format.columns is not None:
            return self.text_format.columns
        names = [re.sub(r":(token|float)(_seq)?$", "", cell) for cell in self.header]
        columns = tuple(name or f"unnamed_{place}" for place, name in enumerate(names, 1))
        repeated = _first_repeated(columns)
        if repeated is not None:
            raise DataError(
                f"{self.path}, line 1 names the column '{repeated}' twice; rename one of them."
            )
        return columns

    def read(self, wanted: Callable[[str], bool], counts: RowCounts | None = None) -> pd.DataFrame:
        """Read the columns whose names are `wanted`.

        Parameters
        ----------
        wanted : callable
            Takes a column's name.
        counts : RowCounts, optional
            Rows that are read and dropped are added to it.

        Returns
        -------
        DataFrame
            Cells are str, and missing where a row is short or the cell is empty.

        Raises
        ------
        DataError
            If the file is not a table, with the line at fault.
        """
        columns = list(self.columns)
        with self._errors(), self._rows() as (parser, rows):
            # Without any row, pandas finds no columns.
            first = next(rows, None)
            frame = pd.DataFrame(columns=columns, dtype=object)
            if first is not None:
                self._check_first(parser, first)
                frame = pd.read_csv(
                    RowStream(itertools.chain([first], rows)),
                    sep=parser.separator,
                    quoting=csv.QUOTE_MINIMAL if parser.quotes else csv.QUOTE_NONE,
                    header=None,
                    names=columns,
                    index_col=False,
                    dtype=str,
                    keep_default_na=False,
                    na_values=[""],
                    skip_blank_lines=False,
                    lineterminator="\n",
                )
        counts = RowCounts() if counts is None else counts
        counts.read += len(frame) + parser.blank
        counts.add("blank", parser.blank)
        if parser.short:
            counts.note(
                f"{self.path.name}: rows with fewer cells than there are columns: "
                f"{parser.short:,} (the first in line {parser.first_short}); the missing cells "
                "count as empty.",
                warn=True,
            )
        return frame[[name for name in columns if wanted(name)]]

    def line_of(self, row: int) -> int:
        """The line in which a row begins."""
        with self._rows() as (_, rows):
            return next(itertools.islice(rows, row, None)).line

    def _check_first(self, parser: TextRows, first: Row) -> None:
        """Check that columns which are named without a header are those that are there."""
        columns = self.text_format.columns
        cells = parser.cells(first.text)
        if columns is not None and len(cells) != len(columns):
            raise DataError(
                f"{self.path}, line {first.line} has {len(cells)} cells, and {len(columns)} "
                f"columns are named ({', '.join(columns)}); name one column for each cell."
            )

    def _parser(self) -> TextRows:
        separator = self._separator
        quotes = self.text_format.quotes and len(separator) == 1
        return TextRows(self.path, _UNIT_SEPARATOR if self._replaced else separator, quotes)

    @contextlib.contextmanager
    def _rows(self) -> Iterator[tuple[TextRows, Iterator[Row]]]:
        """The rows below the header."""
        with self._lines() as lines:
            parser = self._parser()
            rows = parser.rows(lines)
            if self.text_format.columns is None:
                next(rows, None)
            yield parser, rows

    @contextlib.contextmanager
    def _lines(self) -> Iterator[Iterator[str]]:
        with open_text(self.path, self.text_format.encoding) as file:
            replaced = self._replaced
            if replaced is None:
                yield iter(file)
            else:
                yield (
                    line.replace(_UNIT_SEPARATOR, " ").replace(replaced, _UNIT_SEPARATOR)
                    for line in file
                )

    @functools.cached_property
    def _separator(self) -> str:
        if self.text_format.separator is not None:
            return self.text_format.separator
        with self._errors(), open_text(self.path, self.text_format.encoding) as file:
            first = next((line for line in file if line.strip()), "")
        unquoted = re.sub('"[^"]*"', "", first)
        return max(_SEPARATORS, key=unquoted.count)

    @property
    def _replaced(self) -> str | None:
        """The separator, if it is not one byte: pandas splits at one byte much faster."""
        separator = self.text_format.separator
        return separator if separator is not None and len(separator.encode()) > 1 else None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeError as error:
            raise not_encoded(self.path, self.text_format.encoding, error) from error
        except (csv.Error, ValueError, *UNREADABLE) as error:
            raise DataError(
                f"{self.path} is not a table of delimited columns ({reason_of(error)}); correct "
                "the file."
            ) from error


def unescaped(separator: str) -> str:
    """``\\t`` and ``\\x01`` as the characters they stand for, and ``","`` without its quotes."""
    if len(separator) > 2 and separator[0] == separator[-1] and separator[0] in "'\"":
        separator = separator[1:-1]
    if "\\" not in separator or not separator.isascii():
        return separator
    try:
        return separator.encode("ascii").decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"The separator {separator!r} is not a character; write a tab as \\t, for example."
        ) from error


def reason_of(error: BaseException) -> str:
    """What an error says, on one line and without pandas' preamble."""
    text = " ".join(str(error).split()).rstrip(".")
    return text.rpartition("C error: ")[2] or type(error).__name__
