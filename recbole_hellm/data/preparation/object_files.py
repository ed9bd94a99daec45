"""Objects in text: JSON or a Python literal a line, or one JSON array of objects."""

from __future__ import annotations

import ast
import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from recbole_hellm.data.preparation.packed_files import UNREADABLE, not_encoded, open_text
from recbole_hellm.errors import DataError
from recbole_hellm.storage.text_files import UTF8

UNPARSABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_BLOCK = 1 << 20
_BLANKS = re.compile(r"\s*")
_LARGEST = 1 << 28  # characters of an object in an array


class _DoubledKey(Exception):  # noqa: N818 (it never leaves this module)
    """A key has two values in one object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        for key, value in pairs:
            # NaN differs from itself.
            if record[key] is not value and record[key] != value:
                raise _DoubledKey(key)
    return record


_JSON = json.JSONDecoder(object_pairs_hook=_unique)


def parse_object(line: bytes, path: Path, number: int) -> dict[Any, Any]:
    """Parse a line that is an object: JSON, or a Python literal.

    Parameters
    ----------
    line : bytes
        In UTF-8.
    path, number : Path, int
        The file and the line, for messages.

    Raises
    ------
    DataError
        If it is neither, or a key has two values.
    """
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode().strip()
        try:
            record = _JSON.decode(text)
        except ValueError:
            record = ast.literal_eval(text)
    except _DoubledKey as error:
        raise _doubled(path, number, error) from error
    except UnicodeError as error:
        raise not_encoded(path, UTF8, error, number) from error
    except UNPARSABLE as error:
        raise DataError(
            f"{path}, line {number} is neither JSON nor a Python literal ({_reason(error)}); "
            "correct the line: it must be one object."
        ) from error
    return _checked(record, path, number)


def array_objects(path: Path, encoding: str) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Objects of a JSON array, with the lines in which they begin.

    Raises
    ------
    DataError
        If the file is not one JSON array of objects.
    """
    line = 1
    try:
        with open_text(path, encoding) as file:
            for line, record in _Array(file, path).values():
                yield line, _checked(record, path, line)
    except UnicodeError as error:
        raise not_encoded(path, encoding, error) from error
    except UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read beyond line {line} ({error}); write it again."
        ) from error


class _Array:
    """A JSON array, of which only some text is in memory."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._place = "", 0
        self._line = 1

    def values(self) -> Iterator[tuple[int, Any]]:
        """Elements with the lines in which they begin."""
        self._next_mark()
        self._take(self._place + 1)
        if self._next_mark() != "]":
            yield self._line, self._value()
            while (mark := self._next_mark()) == ",":
                self._take(self._place + 1)
                self._next_mark()
                yield self._line, self._value()
            if mark != "]":
                what = "a comma is missing" if mark else "the JSON array does not end"
                raise DataError(f"{self._path}, line {self._line}: {what}; correct the file.")
        self._take(self._place + 1)
        if self._next_mark():
            raise DataError(
                f"{self._path}, line {self._line}: text follows the JSON array; write one array, "
                "or one object a line."
            )

    def _value(self) -> Any:
        while True:
            try:
                value, end = _JSON.raw_decode(self._text, self._place)
            except _DoubledKey as error:
                raise _doubled(self._path, self._line, error) from error
            except (ValueError, RecursionError) as error:
                deep = isinstance(error, RecursionError)
                if not deep and len(self._text) < _LARGEST and self._more():
                    continue
                raise DataError(
                    f"{self._path}, line {self._line}: an element of the JSON array is no object "
                    f"({_reason(error)}); correct it."
                ) from error
            self._take(end)
            return value

    def _next_mark(self) -> str:
        """The next character that is not blank, which stays; '' at the end."""
        while True:
            found = _BLANKS.match(self._text, self._place)
            self._take(self._place if found is None else found.end())
            if self._place < len(self._text) or not self._more():
                return self._text[self._place : self._place + 1]

    def _take(self, end: int) -> None:
        self._line += self._text.count("\n", self._place, end)
        self._place = end

    def _more(self) -> bool:
        rest = self._text[self._place :]
        block = self._file.read(max(_BLOCK, len(rest)))
        self._text, self._place = rest + block, 0
        return bool(block)


def _checked(record: Any, path: Path, number: int) -> dict[Any, Any]:
    if not isinstance(record, dict):
        raise DataError(
            f"{path}, line {number} is a {type(record).__name__}, not an object; correct the line."
        )
    return record


def _doubled(path: Path, number: int, error: _DoubledKey) -> DataError:
    return DataError(f"{path}, line {number} gives the key {error} twice; keep one of them.")


def _reason(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else type(error).__name__
