"""Files that hold a table: delimited text, Parquet, JSON lines, and one JSON array of objects.

A JSON line may also be a Python literal, as in Amazon's metadata of 2014. The content of a file
decides what it is, not its name. Nothing in a file is ever evaluated: :func:`ast.literal_eval`
parses literals without running code.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from recbole_hellm.data.preparation.delimited_text import ANY_TEXT, DelimitedText, TextFormat
from recbole_hellm.data.preparation.object_files import array_objects, parse_object
from recbole_hellm.data.preparation.packed_files import UNREADABLE, numbered_lines, open_binary
from recbole_hellm.data.preparation.parquet_files import parquet_columns, read_parquet
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.errors import DataError
from recbole_hellm.storage.text_files import marked_encoding

NOBODY = "of items without interactions"
"""Why most rows of a table of items are left out."""
_FIRST_OBJECTS = 100  # whose keys are the columns; one may lack some
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive or a workbook; name a file in it, as in all.zip/log.csv, or save "
    "the workbook as CSV",
    b"ARROW1": "an Arrow file; save it as Parquet or CSV",
    b"SQLite format 3": "a database; export the table as CSV",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it",
    b"\x93NUMPY": "a numpy array; save a table with names of columns",
    b"\x89HDF": "an HDF5 file; save the table as Parquet or CSV",
    b"\xd0\xcf\x11\xe0": "a workbook; save it as CSV",
    b"\x80\x04\x95": "a pickle; save the table as Parquet or CSV",
    b"\x80\x05\x95": "a pickle; save the table as Parquet or CSV",
}


@dataclasses.dataclass(frozen=True)
class TableFile:
    """A file that holds a table.

    Parameters
    ----------
    path : Path
        Plain, gzipped, or a member of a zip archive, see
        :mod:`recbole_hellm.data.preparation.packed_files`.
    text_format : TextFormat
        How it is written if it is delimited text.
    """

    path: Path
    text_format: TextFormat = ANY_TEXT

    @functools.cached_property
    def kind(self) -> Literal["text", "lines", "array", "parquet"]:
        """Delimited text, an object a line, an array of objects, or Parquet.

        Raises
        ------
        DataError
            If the file cannot be read, is empty, or is another kind of file.
        """
        try:
            with open_binary(self.path) as file:
                start = file.read(1 << 16)
        except UNREADABLE as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DataError(f"{self.path} cannot be read ({reason}); name another file.") from error
        if start.startswith(b"PAR1"):
            self._check_not_described("Parquet")
            return "parquet"
        other = next((kind for mark, kind in _OTHER_KINDS.items() if start.startswith(mark)), None)
        if other is not None:
            raise DataError(f"{self.path} is {other}.")
        encoding = marked_encoding(start[:4], self.text_format.encoding)
        text = codecs.getincrementaldecoder(encoding)("replace").decode(start).lstrip()
        if not text:
            raise DataError(f"{self.path} is empty; name a file with a table.")
        if self.text_format.described:
            if re.match(r"""(\[\s*)?\{\s*["'][^"']*["']\s*:""", text):
                self._check_not_described("JSON")
            return "text"
        if text.startswith("["):
            if not re.match(r"\[\s*(\{|\]|\Z)", text):
                raise DataError(
                    f"{self.path} is one JSON array, and not of objects; write one JSON object a "
                    "line instead."
                )
            return "array"
        return "lines" if text.startswith("{") else "text"

    def _check_not_described(self, kind: str) -> None:
        """Check that no options for delimited text are given for another kind of file."""
        if self.text_format.described:
            raise DataError(
                f"{self.path} is {kind}, whose columns have names; remove the options that name "
                "all columns or the separator."
            )

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns; of objects, the keys of the first hundred.

        Raises
        ------
        DataError
            If the file does not begin with a row of a table.
        """
        if self.kind == "parquet":
            return parquet_columns(self.path)
        if self.kind == "text":
            return self.text.columns
        objects = self._objects(None, RowCounts(), progress=False)
        first = [record for _, record in itertools.islice(objects, 1)]
        # A line that is no object matters only where it is read.
        with contextlib.suppress(DataError):
            first.extend(record for _, record in itertools.islice(objects, _FIRST_OBJECTS - 1))
        if not first:
            raise DataError(f"{self.path} holds no rows; name a file with a table.")
        return tuple(dict.fromkeys(str(name) for record in first for name in record))

    def read(
        self,
        wanted: Callable[[str], bool],
        keep: Callable[[bytes], bool] | None = None,
        progress: bool = True,
        counts: RowCounts | None = None,
    ) -> Table:
        """Read the columns whose names are `wanted`.

        Parameters
        ----------
        wanted : callable
            Takes a column's name.
        keep : callable, optional
            Says of a line of objects, unparsed, whether it may matter; the others are left out.
        progress : bool
            Show a progress bar where rows are objects.
        counts : RowCounts, optional
            Rows that are read and dropped are added to it.

        Raises
        ------
        DataError
            If the file is not a table, with the line at fault.
        """
        counts = RowCounts() if counts is None else counts
        if self.kind == "text":
            return Table(self, self.text.read(wanted, counts))
        if self.kind == "parquet":
            frame = read_parquet(self.path, list(filter(wanted, self.columns)))
            counts.read += len(frame)
            return Table(self, frame)
        return self._read_objects(wanted, keep, progress, counts)

    def where(self, row: int) -> str:
        """File and line of a row, for messages; of a Parquet file, the row's number."""
        if self.kind == "text":
            return f"{self.path}, line {self.text.line_of(row)}"
        return f"{self.path}, row {row + 1}"

    @functools.cached_property
    def text(self) -> DelimitedText:
        """The file as delimited text."""
        return DelimitedText(self.path, self.text_format)

    def _read_objects(
        self,
        wanted: Callable[[str], bool],
        keep: Callable[[bytes], bool] | None,
        progress: bool,
        counts: RowCounts,
    ) -> Table:
        cells: dict[str, list[Any]] = {}
        lines: list[int] = []
        ignored: set[str] = set()
        for number, record in self._objects(keep, counts, progress):
            for name, value in record.items():
                if name in ignored:
                    continue
                if name not in cells:
                    if not isinstance(name, str) or not wanted(name):
                        ignored.add(name)
                        continue
                    cells[name] = [None] * len(lines)
                cells[name].append(value)
            lines.append(number)
            for column in cells.values():
                if len(column) < len(lines):
                    column.append(None)
        counts.read += len(lines)
        series = {name: pd.Series(column, dtype=object) for name, column in cells.items()}
        return Table(self, pd.DataFrame(series, index=pd.RangeIndex(len(lines))), lines)

    def _objects(
        self, keep: Callable[[bytes], bool] | None, counts: RowCounts, progress: bool
    ) -> Iterator[tuple[int, dict[Any, Any]]]:
        """Objects with their lines; those that :meth:`read` does not keep are counted."""
        if self.kind == "array":
            yield from array_objects(self.path, self.text_format.encoding)
            return
        first = True
        left_out = 0
        for number, line in numbered_lines(self.path, progress, self.text_format.encoding):
            if first or keep is None or keep(line):
                yield number, parse_object(line, self.path, number)
                first = False
            else:
                left_out += 1
        counts.read += left_out
        counts.add(NOBODY, left_out)


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns that were read from a file.

    Attributes
    ----------
    file : TableFile
    frame : DataFrame
        Cells of delimited text are str, and missing where a row is short or the cell is empty;
        cells of objects are what JSON gives, and missing where the key is.
    lines : list of int, optional
        The line of each row of the file, where rows are objects.
    rows : array of int, optional
        The rows of the file that are left, where some were dropped.
    """

    file: TableFile
    frame: pd.DataFrame
    lines: list[int] | None = None
    rows: np.ndarray | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the file, read or not."""
        return self.file.columns

    def where(self, row: int) -> str:
        """File and line of a row of :attr:`frame`, for messages."""
        place = row if self.rows is None else int(self.rows[row])
        if self.lines is None:
            return self.file.where(place)
        return f"{self.file.path}, line {self.lines[place]}"

    def without(self, dropped: np.ndarray) -> Table:
        """The table without some rows, which a mask tells."""
        rows = np.arange(len(self.frame)) if self.rows is None else self.rows
        frame = self.frame[~dropped].reset_index(drop=True)
        return dataclasses.replace(self, frame=frame, rows=rows[~dropped])


def keeper(column: str, tokens: set[str]) -> Callable[[bytes], bool]:
    """For :meth:`TableFile.read`: lines whose `column` may be one of `tokens`.

    A line is left out unparsed only if every place that names the column has a plain text, and
    none of them is wanted: metadata files hold many times the items that are needed.
    """
    name = re.escape(column.encode())
    place = re.compile(rb"""["']""" + name + rb"""["']\s*:""")
    value = re.compile(rb"""["']""" + name + rb"""["']\s*:\s*(["'])([\w.-]+)\1\s*[,}]""", re.ASCII)

    def keep(line: bytes) -> bool:
        values = value.findall(line)
        if not values or len(values) != len(place.findall(line)):
            return True
        return any(token.decode() in tokens for _, token in values)

    return keep
