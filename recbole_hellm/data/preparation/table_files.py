"""Files that hold a table: delimited text, Parquet, and JSON lines.

A JSON line may also be a Python literal, as in Amazon's metadata of 2014. The content of a file
decides what it is, not its name. Nothing in a file is ever evaluated: :func:`ast.literal_eval`
parses literals without running code.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from recbole_hellm.data.preparation.delimited_text import (
    ANY_TEXT,
    DelimitedText,
    TextFormat,
    reason_of,
)
from recbole_hellm.data.preparation.packed_files import UNREADABLE, numbered_lines, open_binary
from recbole_hellm.errors import DataError

UNPARSABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


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
    def kind(self) -> Literal["text", "lines", "parquet"]:
        """Delimited text, an object a line, or Parquet.

        Raises
        ------
        DataError
            If the file cannot be read, is empty, or is one JSON array.
        """
        try:
            with open_binary(self.path) as file:
                start = file.read(1 << 16)
        except UNREADABLE as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DataError(f"{self.path} cannot be read ({reason}); name another file.") from error
        if start.startswith(b"PAR1"):
            return "parquet"
        start = start.removeprefix(codecs.BOM_UTF8).lstrip()
        if not start:
            raise DataError(f"{self.path} is empty; name a file with a table.")
        if self.text_format.described:
            return "text"
        if start.startswith(b"["):
            raise DataError(f"{self.path} is one JSON array; write one JSON object a line instead.")
        return "lines" if start.startswith(b"{") else "text"

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns; of objects, the keys of the first.

        Raises
        ------
        DataError
            If the file does not begin with a row of a table.
        """
        if self.kind == "parquet":
            return self._parquet_columns()
        if self.kind == "lines":
            number, line = next(numbered_lines(self.path, progress=False))
            return tuple(map(str, self._parse(line, number)))
        return self._text.columns

    def read(
        self,
        wanted: Callable[[str], bool],
        keep: Callable[[bytes], bool] | None = None,
        progress: bool = True,
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

        Raises
        ------
        DataError
            If the file is not a table, with the line at fault.
        """
        if self.kind == "parquet":
            return Table(self, self._read_parquet(wanted))
        if self.kind == "lines":
            return self._read_objects(wanted, keep, progress)
        return Table(self, self._text.read(wanted))

    def where(self, row: int) -> str:
        """File and line of a row, for messages; of a Parquet file, the row's number."""
        if self.kind == "text":
            return f"{self.path}, line {self._text.line_of(row)}"
        return f"{self.path}, row {row + 1}"

    @functools.cached_property
    def _text(self) -> DelimitedText:
        return DelimitedText(self.path, self.text_format)

    def _parquet_columns(self) -> tuple[str, ...]:
        import pyarrow.parquet as pq

        with self._parquet_errors():
            return tuple(pq.read_schema(self.path).names)

    def _read_parquet(self, wanted: Callable[[str], bool]) -> pd.DataFrame:
        import pyarrow.parquet as pq

        chosen = [name for name in self.columns if wanted(name)]
        with self._parquet_errors():
            # An index that pandas noted in the file is a column like any other.
            frame = pq.read_table(self.path, columns=chosen).to_pandas(ignore_metadata=True)
        return frame[chosen]

    @contextlib.contextmanager
    def _parquet_errors(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, *UNPARSABLE, *UNREADABLE) as error:
            raise DataError(
                f"{self.path} is not a Parquet file ({reason_of(error)}); write it again."
            ) from error

    def _read_objects(
        self,
        wanted: Callable[[str], bool],
        keep: Callable[[bytes], bool] | None,
        progress: bool,
    ) -> Table:
        cells: dict[str, list[Any]] = {}
        lines: list[int] = []
        ignored: set[str] = set()
        for number, line in numbered_lines(self.path, progress):
            if keep is not None and lines and not keep(line):
                continue
            for name, value in self._parse(line, number).items():
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
        series = {name: pd.Series(column, dtype=object) for name, column in cells.items()}
        return Table(self, pd.DataFrame(series, index=pd.RangeIndex(len(lines))), lines)

    def _parse(self, line: bytes, number: int) -> dict[Any, Any]:
        try:
            text = line.removeprefix(codecs.BOM_UTF8).decode(self.text_format.encoding).strip()
            try:
                record = json.loads(text)
            except ValueError:
                record = ast.literal_eval(text)
        except UNPARSABLE as error:
            raise DataError(
                f"{self.path}, line {number} is neither JSON nor a Python literal "
                f"({type(error).__name__}); correct the line."
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                f"{self.path}, line {number} is a {type(record).__name__}, not an object; correct "
                "the line."
            )
        return record


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
        The line of each row, where rows are objects.
    """

    file: TableFile
    frame: pd.DataFrame
    lines: list[int] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the file, read or not."""
        return self.file.columns

    def where(self, row: int) -> str:
        """File and line of a row of :attr:`frame`, for messages."""
        if self.lines is None:
            return self.file.where(row)
        return f"{self.file.path}, line {self.lines[row]}"


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
