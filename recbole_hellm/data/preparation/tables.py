"""Tables in files: CSV and TSV, Parquet, and one JSON object or Python literal a line.

What a file is, gzipped or not, is told by its content and not by its name. Nothing in a file is
ever evaluated: literals are parsed by :func:`ast.literal_eval`, which runs no code.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import pandas as pd
from tqdm import tqdm

from recbole_hellm.errors import DataError

UNPARSABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_UNREADABLE = (OSError, EOFError, zlib.error)
_DELIMITERS = "\t,;|"


@dataclasses.dataclass(frozen=True)
class Table:
    """A file's columns.

    Attributes
    ----------
    path : Path
    kind : {"text", "lines", "parquet"}
        Delimited text, an object a line, or Parquet.
    columns : tuple of str
        All columns of the file, read or not; of objects, the keys of the first.
    frame : DataFrame
        The columns that were read. Cells of delimited text are str, and missing where a row is
        short or the cell empty; of objects they are what JSON gives, and missing where a key is.
    lines : list of int, optional
        The line of each row, where rows are objects.
    """

    path: Path
    kind: Literal["text", "lines", "parquet"]
    columns: tuple[str, ...]
    frame: pd.DataFrame
    lines: list[int] | None = None

    def where(self, row: int) -> str:
        """File and line of a row of :attr:`frame`, for messages."""
        if self.lines is not None:
            return f"{self.path}, line {self.lines[row]}"
        if self.kind == "parquet":
            return f"{self.path}, row {row + 1}"
        with _opened(self.path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            reader = csv.reader(text, delimiter=_delimiter(self.path))
            number, line = -1, 1  # the header is row -1
            for cells in reader:
                if cells:
                    if number == row:
                        return f"{self.path}, line {line}"
                    number += 1
                line = reader.line_num + 1
        return f"{self.path}, row {row + 1}"


def column_names(path: Path) -> tuple[str, ...]:
    """All columns of a file; of objects, the keys of the first.

    Raises
    ------
    DataError
        As :func:`read_table`.
    """
    kind = _kind(path)
    if kind == "parquet":
        return _parquet_names(path)
    if kind == "lines":
        number, line = next(numbered_lines(path, progress=False))
        return tuple(map(str, _parse(line, path, number)))
    return _header(path)


def read_table(
    path: Path,
    wanted: Callable[[str], bool],
    keep: Callable[[bytes], bool] | None = None,
    progress: bool = True,
) -> Table:
    """Read the columns of a file whose names are `wanted`.

    Parameters
    ----------
    path : Path
    wanted : callable
        Takes a column's name.
    keep : callable, optional
        Says of a line of objects, unparsed, whether it may matter; the others are left out.
    progress : bool
        Show a progress bar where rows are objects.

    Raises
    ------
    DataError
        If the file is missing or empty, or no table of a known kind, with the line where it breaks.
    """
    kind = _kind(path)
    if kind == "parquet":
        return _read_parquet(path, wanted)
    if kind == "lines":
        return _read_objects(path, wanted, keep, progress)
    return _read_text(path, wanted)


def numbered_lines(path: Path, progress: bool = True) -> Iterator[tuple[int, bytes]]:
    """Non-blank lines of a plain or gzipped file, with their numbers from 1.

    Raises
    ------
    DataError
        If the file cannot be read to its end.
    """
    number = 0
    try:
        with _opened(path) as file:
            bar = tqdm(file, desc=path.name, unit=" lines", unit_scale=True, disable=not progress)
            for number, line in enumerate(bar, start=1):
                if line.strip():
                    yield number, line
    except _UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read beyond line {number} ({error}); download it again."
        ) from error


def keeper(column: str, tokens: set[str]) -> Callable[[bytes], bool]:
    """For :func:`read_table`: lines whose `column` may be one of `tokens`.

    A line is left out unparsed only if every place that names the column has a plain text, and
    none of them is wanted: metadata files hold many times the items that are needed.
    """
    name = re.escape(column.encode())
    place = re.compile(rb"""["']""" + name + rb"""["']\s*:""")
    value = re.compile(rb"""["']""" + name + rb"""["']\s*:\s*(["'])([\w.-]+)\1\s*[,}]""", re.ASCII)

    def keep(line: bytes) -> bool:
        found = value.findall(line)
        if not found or len(found) != len(place.findall(line)):
            return True
        return any(token.decode() in tokens for _, token in found)

    return keep


def _kind(path: Path) -> Literal["text", "lines", "parquet"]:
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return "parquet"
        with _opened(path) as file:
            start = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    except _UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} cannot be read ({reason}); name another file.") from error
    if not start:
        raise DataError(f"{path} is empty; name a file with a table.")
    if start[:1] == b"[":
        raise DataError(f"{path} holds one JSON array; write one JSON object a line instead.")
    return "lines" if start[:1] == b"{" else "text"


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b" or path.suffix == ".gz"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _first_line(path: Path) -> bytes:
    with _opened(path) as file:
        return next((line for line in file if line.strip()), b"")


def _delimiter(path: Path) -> str:
    return max(_DELIMITERS, key=_first_line(path).decode("utf-8", "replace").count)


def _header(path: Path) -> tuple[str, ...]:
    """Names in line 1 of delimited text; RecBole's ``user_id:token`` is ``user_id``."""
    try:
        text = _first_line(path).decode("utf-8-sig").strip("\r\n")
        cells = next(csv.reader([text], delimiter=_delimiter(path)))
    except (csv.Error, ValueError, *_UNREADABLE) as error:
        raise DataError(f"{path}, line 1 names no columns ({_reason(error)}); add them.") from error
    names = [re.sub(r":(token|float)(_seq)?$", "", name.strip()) for name in cells]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{path}, line 1 names the column '{double}' twice; rename one of them.")
    return tuple(names)


def _read_text(path: Path, wanted: Callable[[str], bool]) -> Table:
    columns = _header(path)
    try:
        with _opened(path) as file:
            frame = pd.read_csv(
                file,
                sep=_delimiter(path),
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                encoding="utf-8-sig",
            )
    except (*UNPARSABLE, *_UNREADABLE) as error:
        raise DataError(
            f"{path} is no table of delimited columns ({_reason(error)}); mend the file."
        ) from error
    if len(columns) != frame.shape[1] or not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{path}, line 2 has more columns than line 1 names; mend the file.")
    frame.columns = pd.Index(columns)
    return Table(path, "text", columns, frame[[name for name in columns if wanted(name)]])


def _parquet_names(path: Path) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, *UNPARSABLE, *_UNREADABLE) as error:
        raise DataError(f"{path} is no Parquet file ({_reason(error)}); write it anew.") from error


def _read_parquet(path: Path, wanted: Callable[[str], bool]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _parquet_names(path)
    chosen = [name for name in columns if wanted(name)]
    try:
        # An index that pandas noted in the file is a column like any other.
        frame = pq.read_table(path, columns=chosen).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, *UNPARSABLE, *_UNREADABLE) as error:
        raise DataError(f"{path} is no Parquet file ({_reason(error)}); write it anew.") from error
    return Table(path, "parquet", columns, frame[chosen])


def _read_objects(
    path: Path,
    wanted: Callable[[str], bool],
    keep: Callable[[bytes], bool] | None,
    progress: bool,
) -> Table:
    columns: tuple[str, ...] | None = None
    cells: dict[str, list[Any]] = {}
    lines: list[int] = []
    ignored: set[str] = set()
    for number, line in numbered_lines(path, progress):
        if keep is not None and columns is not None and not keep(line):
            continue
        record = _parse(line, path, number)
        columns = columns or tuple(map(str, record))
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
    series = {name: pd.Series(column, dtype=object) for name, column in cells.items()}
    frame = pd.DataFrame(series, index=pd.RangeIndex(len(lines)))
    return Table(path, "lines", columns or (), frame, lines)


def _parse(line: bytes, path: Path, number: int) -> dict[Any, Any]:
    try:
        text = line.decode("utf-8-sig").strip()
        try:
            record = json.loads(text)
        except ValueError:
            record = ast.literal_eval(text)
    except UNPARSABLE as error:
        problem = f"is neither JSON nor a Python literal ({type(error).__name__})"
        raise DataError(f"{path}, line {number} {problem}; mend the line.") from error
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(f"{path}, line {number} is a {kind}, not an object; mend the line.")
    return record


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text.rpartition("C error: ")[2] or type(error).__name__
