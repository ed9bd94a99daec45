"""Tables in delimited text: CSV, TSV and any other separator, with or without a header."""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pandas as pd

from recbole_hellm.data.preparation.packed_files import UNREADABLE, open_binary
from recbole_hellm.errors import ConfigError, DataError

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
        try:
            "".encode(self.encoding)  # codecs.lookup accepts encodings of bytes, too
        except LookupError as error:
            raise ConfigError(
                f"There is no encoding '{self.encoding}'; use utf-8, latin-1 or another name that "
                "Python knows."
            ) from error

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
    def columns(self) -> tuple[str, ...]:
        """Names of all columns; RecBole's ``user_id:token`` is ``user_id``.

        Raises
        ------
        DataError
            If line 1 cannot be read or names a column twice.
        """
        if self.text_format.columns is not None:
            return self.text_format.columns
        with self._errors():
            cells = next(csv.reader([self._first_line], **self._dialect))
        columns = tuple(re.sub(r":(token|float)(_seq)?$", "", cell.strip()) for cell in cells)
        repeated = _first_repeated(columns)
        if repeated is not None:
            raise DataError(
                f"{self.path}, line 1 names the column '{repeated}' twice; rename one of them."
            )
        return columns

    def read(self, wanted: Callable[[str], bool]) -> pd.DataFrame:
        """Read the columns whose names are `wanted`.

        Returns
        -------
        DataFrame
            Cells are str, and missing where a row is short or the cell is empty.

        Raises
        ------
        DataError
            If the file is not a table, with the line at fault.
        """
        columns, header = self.columns, self.text_format.columns is None
        dialect = self._dialect
        with self._errors(), self._text() as file:
            frame = pd.read_csv(
                file,
                sep=dialect["delimiter"],
                quoting=dialect["quoting"],
                header=0 if header else None,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
            )
        if not header and len(columns) != frame.shape[1]:
            raise DataError(
                f"{self.path}, line 1 has {frame.shape[1]} cells, and {len(columns)} columns are "
                f"named ({', '.join(columns)}); name one column for each cell."
            )
        # pandas takes surplus cells of line 2 for an index.
        if len(columns) != frame.shape[1] or not isinstance(frame.index, pd.RangeIndex):
            raise DataError(
                f"{self.path}, line 2 has more cells than line 1 has names; correct the file."
            )
        frame.columns = pd.Index(columns)
        return frame[[name for name in columns if wanted(name)]]

    def line_of(self, row: int) -> int:
        """The line in which a row begins."""
        number, line = 0 if self.text_format.columns else -1, 1
        with self._text() as file:
            rows = csv.reader(file, **self._dialect)
            for cells in rows:
                if cells:
                    if number == row:
                        break
                    number += 1
                line = rows.line_num + 1
        return line

    @functools.cached_property
    def _first_line(self) -> str:
        with self._errors(), self._decoded() as file:
            line = next((line for line in file if line.strip()), "").strip("\r\n")
        return line.replace(self._replaced, _UNIT_SEPARATOR) if self._replaced else line

    @functools.cached_property
    def _dialect(self) -> dict[str, Any]:
        separator = self.text_format.separator
        if separator is None:
            separator = max(_SEPARATORS, key=self._first_line.count)
        quotes = self.text_format.quotes and len(separator) == 1
        return {
            "delimiter": _UNIT_SEPARATOR if self._replaced else separator,
            "quoting": csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        }

    @property
    def _replaced(self) -> str | None:
        """The separator, if it is not one byte: pandas splits at one byte much faster."""
        separator = self.text_format.separator
        return separator if separator is not None and len(separator.encode()) > 1 else None

    def _decoded(self) -> IO[str]:
        encoding = codecs.lookup(self.text_format.encoding).name
        encoding = "utf-8-sig" if encoding == "utf-8" else encoding
        return io.TextIOWrapper(open_binary(self.path), encoding=encoding, newline="")

    def _text(self) -> IO[str]:
        if self._replaced is None:
            return self._decoded()
        with self._decoded() as file:
            return io.StringIO(file.read().replace(self._replaced, _UNIT_SEPARATOR))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeError as error:
            raise DataError(
                f"{self.path} is not encoded in {self.text_format.encoding} ({error}); save it in "
                "UTF-8, or name its encoding, for example --encoding=latin-1."
            ) from error
        except (csv.Error, ValueError, *UNREADABLE) as error:
            raise DataError(
                f"{self.path} is not a table of delimited columns ({reason_of(error)}); correct "
                "the file."
            ) from error


def reason_of(error: BaseException) -> str:
    """What an error says, on one line and without pandas' preamble."""
    text = " ".join(str(error).split()).rstrip(".")
    return text.rpartition("C error: ")[2] or type(error).__name__
