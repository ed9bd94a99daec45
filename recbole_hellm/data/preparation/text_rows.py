"""Rows of delimited text: none of them is lost in silence, whatever its quotes are.

A double quote encloses a cell only where it begins one. A cell in quotes may hold separators and
line ends, and a doubled quote stands for one. Elsewhere a quote is a character.

Where the separator is a tab, writers often know no quotes at all. There a quote that does not close
within its line is a character, unless only several lines together are a row. With any other
separator it is an error if it does not close, or if it closes so that whole rows are in the cell.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from recbole_hellm.errors import DataError

TAB = "\t"
_MOST_LINES = 1_000_000  # of a cell
_ALIKE = 20  # rows that tell what a row looks like
_MEND = (
    "close it, write a quote within a quoted cell twice, or say --quotes=False if quotes are "
    "characters here"
)


@dataclasses.dataclass
class Row:
    """A row of delimited text: its first line, and its text without the last line end."""

    line: int
    text: str


@dataclasses.dataclass
class TextRows:
    """The rows of a file of delimited text, blank ones left out.

    Parameters
    ----------
    path : Path
        The file, for messages.
    separator : str
        One character.
    quotes : bool
        Whether quotes can enclose cells.
    width : int, optional
        The cells of a row; by default as many as the first row has.

    Attributes
    ----------
    blank : int
        Rows without any cell so far; they are left out.
    short : int
        Rows with fewer cells than `width` so far.
    first_short : int
        The line of the first of these.
    """

    path: Path
    separator: str
    quotes: bool = True
    width: int | None = None
    blank: int = dataclasses.field(default=0, init=False)
    short: int = dataclasses.field(default=0, init=False)
    first_short: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        mark = re.escape(self.separator)
        # The quote that closes is not doubled.
        quoted = r'"((?:[^"]|"")*)"(?!")'
        self._enclosed = re.compile(rf"{quoted}(?={mark}|\Z)")
        self._lenient = re.compile(rf"{quoted}([^{mark}]*)")
        self._alike: collections.deque[str] = collections.deque(maxlen=_ALIKE)

    def rows(self, lines: Iterable[str]) -> Iterator[Row]:
        """Rows as texts in which every quoted cell is well-formed.

        Parameters
        ----------
        lines : iterable of str
            The lines of the file, with their ends.

        Raises
        ------
        DataError
            If a row has too many cells, a quote swallows rows, or a character is NUL.
        """
        ahead = _Ahead(lines)
        mark = self.separator
        edge = f"{mark} "
        for line in ahead:
            row = Row(ahead.number, _without_end(line))
            text = row.text
            quoted = self.quotes and '"' in text
            if "\0" in text:
                raise DataError(
                    f"{self.path}, line {row.line} has a null character; remove it, or name the "
                    "encoding, for example --encoding=utf-16."
                )
            if text.count(mark) + 1 == self.width and not quoted and text[:1].strip(edge):
                self._alike.append(text)
                yield row
                continue
            if quoted and self._is_well_formed(text):
                self._alike.append(text)
                yield row
                continue
            cells = self._quoted(row, ahead) if quoted else text.split(mark)
            if not any(cell.strip() for cell in cells):
                self.blank += 1
                continue
            self._check_width(row, cells)
            yield row

    def cells(self, text: str) -> list[str]:
        """The cells of a row that :meth:`rows` gives."""
        if not (self.quotes and '"' in text):
            return text.split(self.separator)
        return self._split(text, self._lenient) or [text]

    def _is_well_formed(self, text: str) -> bool:
        """Whether a row is as wide as others, and each cell is in quotes or has none.

        Most rows with quotes are so. This is many times as fast as taking them apart.
        """
        if self.width is None or "\n" in text:
            return False
        return bool(self._well_formed.fullmatch(text) and self._words.search(text))

    @functools.cached_property
    def _well_formed(self) -> re.Pattern[str]:
        mark = re.escape(self.separator)
        cell = rf'(?:"[^"]*(?:""[^"]*)*"|[^"{mark}]*)'
        return re.compile(rf"{cell}(?:{mark}{cell}){{{(self.width or 1) - 1}}}")

    @functools.cached_property
    def _words(self) -> re.Pattern[str]:
        return re.compile(rf'[^\s"{re.escape(self.separator)}]')

    def _check_width(self, row: Row, cells: list[str]) -> None:
        if self.width is None:
            self.width = len(cells)
            return
        surplus = len(cells) - self.width
        if surplus > 0:
            if any(cells[self.width :]):
                raise DataError(
                    f"{self.path}, line {row.line} has {len(cells)} cells, and there are "
                    f"{self.width} columns; correct the line."
                )
            row.text = self._joined(cells[: self.width])
        elif surplus < 0:
            self.first_short = self.first_short or row.line
            self.short += 1
        elif "\n" not in row.text:
            self._alike.append(row.text)

    def _quoted(self, row: Row, ahead: _Ahead) -> list[str]:
        """The cells of a row with a quote; `row` becomes well-formed and takes further lines."""
        if self.separator == TAB:
            cells = self._quoted_by_tabs(row.text, ahead)
            row.text = self._joined(cells)
            return cells
        return self._split(row.text, self._lenient) or self._over_lines(row, ahead)

    def _quoted_by_tabs(self, text: str, ahead: _Ahead) -> list[str]:
        readings = [
            self._split(text, self._enclosed, plain=True) or [],
            [self._unquoted(cell, self._enclosed) for cell in text.split(TAB)],
        ]
        # Two quotes at begins and ends of different cells may enclose the tabs between them.
        fitting = next((cells for cells in readings if len(cells) == self.width), None)
        if self.width is None or self._split(text, self._lenient) is not None:
            return fitting or readings[0]
        parts = [text]
        for line in ahead.peek(_MOST_LINES):
            whole = line.count(TAB) == self.width - 1
            parts.append(_without_end(line))
            if '"' not in line and whole:
                break
            joined = "\n".join(parts) if _may_close(line) else ""
            if not joined or self._split(joined, self._lenient) is None:
                continue
            cells = self._split(joined, self._enclosed) or []
            if len(cells) == self.width and not (fitting and whole):
                ahead.skip(len(parts) - 1)
                return cells
            break
        return fitting or readings[0]

    def _over_lines(self, row: Row, ahead: _Ahead) -> list[str]:
        parts, cells, like_row = [row.text], None, 0
        open_at = self._open_at(row.text)
        for line in ahead.peek(_MOST_LINES):
            parts.append(_without_end(line))
            if not like_row and self._is_like_a_row(parts[-1], row.text[:open_at]):
                like_row = row.line + len(parts) - 1
            if _may_close(line):
                cells = self._split("\n".join(parts), self._lenient)
                if cells is not None:
                    break
        opens = f"{self.path}, line {row.line} opens a quote that"
        if cells is None:
            raise DataError(f"{opens} does not close; {_MEND}.")
        count = len(parts) - 1
        text = "\n".join(parts)
        found = self._lenient.match(text, open_at)
        if found is not None and (found[2] or found[1].endswith(self.separator)):
            raise DataError(
                f"{opens} closes in the midst of a cell in line {row.line + count}; {_MEND}."
            )
        if like_row:
            raise DataError(
                f"{opens} closes in line {row.line + count}, and line {like_row} looks like a row "
                f"of its own; {_MEND}."
            )
        ahead.skip(count)
        row.text = text
        return cells

    def _is_like_a_row(self, text: str, before: str) -> bool:
        """Whether a line of a quoted cell is as the rows before the cell are."""
        cells = text.split(self.separator)
        if self.width is None or len(cells) != self.width:
            return False
        rows = [self.cells(row) for row in self._alike] or [before.split(self.separator)[:-1]]
        count = min(map(len, (cells, *rows)))  # a row may be too long
        kinds = [{_kind(row[place]) for row in rows} for place in range(count)]
        steady = [place for place, found in enumerate(kinds) if len(found) == 1]
        numeric = [place for place in steady if next(iter(kinds[place]))[0]]
        if numeric:  # such as times: texts with as many separators seldom have numbers there
            return all(_kind(cells[place])[0] for place in numeric)
        # A cell of the row itself may be the one with the quote.
        different = [place for place in steady if _kind(cells[place]) not in kinds[place]]
        quoted = [place for place in different if '"' in cells[place]]
        return len(steady) > len(different) and not set(different) - set(quoted)

    def _open_at(self, text: str) -> int:
        """Where the quote stands that a line opens and does not close."""
        place = 0
        while not text.startswith('"', place) or self._lenient.match(text, place):
            place = self._end_of(text, place, self._lenient) + 1
        return place

    def _split(self, text: str, quoted: re.Pattern[str], plain: bool = False) -> list[str] | None:
        """Cells; None if one begins with a quote and is not `quoted`, unless that is `plain`."""
        cells, place = [], 0
        while place <= len(text):
            end = self._end_of(text, place, quoted)
            if not plain and text.startswith('"', place) and not quoted.match(text, place):
                return None
            cells.append(self._unquoted(text[place:end], quoted))
            place = end + 1
        return cells

    @staticmethod
    def _unquoted(cell: str, quoted: re.Pattern[str]) -> str:
        found = quoted.match(cell)
        if found is None:
            return cell
        return found[1].replace('""', '"') + "".join(found.groups()[1:])

    def _end_of(self, text: str, place: int, quoted: re.Pattern[str]) -> int:
        """Where the cell ends that begins at a place."""
        found = quoted.match(text, place) if text.startswith('"', place) else None
        if found is not None:
            return found.end()
        end = text.find(self.separator, place)
        return len(text) if end < 0 else end

    def _joined(self, cells: Iterable[str]) -> str:
        special = ('"', "\n", "\r", self.separator)
        return self.separator.join(
            '"' + cell.replace('"', '""') + '"'
            if self.quotes and any(mark in cell for mark in special)
            else cell
            for cell in cells
        )


class _Ahead:
    """Lines with their numbers, which can be looked at before they are taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._waiting: collections.deque[str] = collections.deque()
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while True:
            if self._waiting:
                line = self._waiting.popleft()
            else:
                try:
                    line = next(self._lines)
                except StopIteration:
                    return
            self.number += 1
            yield line

    def peek(self, most: int) -> Iterator[str]:
        """The next lines, which stay."""
        for place in range(most):
            if place == len(self._waiting):
                line = next(self._lines, None)
                if line is None:
                    return
                self._waiting.append(line)
            yield self._waiting[place]

    def skip(self, count: int) -> None:
        """Take lines that were looked at."""
        for _ in range(count):
            self._waiting.popleft()
        self.number += count


class RowStream(io.TextIOBase):
    """Rows as a text file, for parsers that read one."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = iter(rows)
        self._rest = ""

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def read(self, size: int | None = -1) -> str:
        """The next characters."""
        parts, length = [self._rest], len(self._rest)
        for row in self._rows:
            parts.append(f"{row.text}\n")
            length += len(parts[-1])
            if size is not None and 0 <= size <= length:
                break
        text = "".join(parts)
        end = len(text) if size is None or size < 0 else size
        self._rest = text[end:]
        return text[:end]


def _may_close(line: str) -> bool:
    """Whether a line of a quoted cell has a quote that is not doubled."""
    return '"' in line.replace('""', "")


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _kind(cell: str) -> tuple[bool, bool, bool]:
    """What a cell looks like: a number, with a digit, with a blank."""
    cell = cell.strip().strip('"')
    try:
        float(cell)
    except ValueError:
        return False, any(map(str.isdigit, cell)), " " in cell
    return True, True, False
