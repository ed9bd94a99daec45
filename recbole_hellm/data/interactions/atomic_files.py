"""RecBole's atomic files: one reader for whatever needs them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import field_validator

from recbole_hellm.config.settings import Settings, setting
from recbole_hellm.data.preparation.delimited_text import DelimitedText, TextFormat, unescaped
from recbole_hellm.data.preparation.manifest import check_files
from recbole_hellm.errors import ConfigError, DataError

KINDS = ("token", "token_seq", "float", "float_seq")
"""Types of columns."""
_TYPED = re.compile(rf":(?:{'|'.join(KINDS)})(?:_seq)?([^:\w]+)\w[^:]*:(?:token|float)")


class AtomicSettings(Settings):
    """How the atomic files of a dataset are written: RecBole's settings of the same names."""

    field_separator: str = setting("\t", "What separates the cells of the dataset's files.")
    seq_separator: str = setting(" ", "What separates the words of a text in these files.")
    encoding: str = setting("utf-8", "Encoding of these files.")
    ITEM_ID_FIELD: str = setting("item_id", "Their column of items.")

    @field_validator("field_separator", "seq_separator")
    @classmethod
    def _characters(cls, value: str) -> str:
        if not value:  # as a bare | is in YAML
            raise ConfigError("""A separator is empty; put quotes inside, as in '"|"'.""")
        return unescaped(value)

    @property
    def text_format(self) -> TextFormat:
        """How they are written, as delimited text."""
        return TextFormat(separator=self.field_separator, encoding=self.encoding, quotes=False)


STANDARD = AtomicSettings()
"""How this package writes them."""


def atomic_settings(config: Any) -> AtomicSettings:
    """What a configuration says of atomic files."""
    keys = [key for key in AtomicSettings.model_fields if key in config]
    return AtomicSettings(**{key: config[key] for key in keys if config[key] is not None})


@dataclasses.dataclass(frozen=True)
class AtomicFile:
    """An atomic file.

    Parameters
    ----------
    path : Path
    settings : AtomicSettings
        How it is written.
    """

    path: Path
    settings: AtomicSettings = STANDARD

    @functools.cached_property
    def _text(self) -> DelimitedText:
        return DelimitedText(self.path, self.settings.text_format)

    def kinds(self) -> dict[str, str]:
        """The columns' types by their names.

        Raises
        ------
        DataError
            If line 1 cannot be read, names a column twice or tells no type.
        """
        kinds: dict[str, str] = {}
        for column in self._text.header:
            field, _, kind = column.partition(":")
            if kind not in KINDS:
                raise DataError(
                    f"{self.path}, line 1: column '{column:.60}' must be written as name:type with "
                    f"a type among token, token_seq, float and float_seq{_hint(column)}."
                )
            if field in kinds:
                raise DataError(
                    f"{self.path}, line 1: the column '{field}' is named twice; keep one of them."
                )
            kinds[field] = kind
        if not kinds:
            raise DataError(f"{self.path} is empty; write a header and rows, or remove the file.")
        return kinds

    def read(self, wanted: Callable[[str], bool] = lambda _: True) -> pd.DataFrame:
        """All cells of the columns whose names are `wanted`, as texts; '' where there is none.

        Raises
        ------
        DataError
            If the file is not a table, with the line at fault.
        """
        self.kinds()
        return self._text.read(wanted).fillna("")

    def where(self, row: int) -> str:
        """File and line of a row, for messages."""
        return f"{self.path}, line {self._text.line_of(row)}"


def read_items(directory: Path, name: str, settings: AtomicSettings = STANDARD) -> pd.DataFrame:
    """The texts of a dataset's items.

    Parameters
    ----------
    directory, name : Path, str
        The folder, and the name in ``<name>.item``: any RecBole atomic file.
    settings : AtomicSettings
        How it is written.

    Returns
    -------
    DataFrame
        ``item_id``, then the text columns (token and token_seq) of the file: a str each, '' where
        missing; ``categories`` is a list of str in which underscores are blanks again. Numeric
        columns are left out.

    Raises
    ------
    DataError
        If the file is missing, damaged, or cannot be read as an atomic file with that column.
    """
    path = Path(directory) / f"{name}.item"
    if not path.exists():
        raise DataError(f"{path} does not exist; prepare the dataset '{name}' or put it there.")
    check_files(path.parent, [path.name])
    file = AtomicFile(path, settings)
    kinds, item_field = file.kinds(), settings.ITEM_ID_FIELD
    if item_field not in kinds:
        raise DataError(
            f"{path}, line 1: the header must name '{item_field}:token'; correct it or set "
            "ITEM_ID_FIELD."
        )
    texts = [
        field
        for field, kind in kinds.items()
        if kind in ("token", "token_seq") and field != item_field
    ]
    frame = file.read({item_field, *texts}.__contains__)
    frame = frame[[item_field, *texts]].rename(columns={item_field: "item_id"})
    mark = settings.seq_separator
    for field in texts:
        frame[field] = frame[field].str.strip()
        if kinds[field] == "token_seq" and mark != " " and field != "categories":
            frame[field] = [" ".join(cell.split(mark)) for cell in frame[field]]
    if kinds.get("categories") == "token_seq":
        rows = [_categories(cell, mark) for cell in frame["categories"]]
        frame["categories"] = pd.Series(rows, index=frame.index, dtype=object)
    return frame


def read_tokens(path: Path, field: str, settings: AtomicSettings = STANDARD) -> list[str]:
    """The different tokens of a column, sorted.

    Raises
    ------
    DataError
        If the file is missing, damaged, cannot be read, or has no such column.
    """
    check_files(path.parent, [path.name])
    file = AtomicFile(path, settings)
    if field not in file.kinds():
        raise DataError(
            f"{path}, line 1 names no column {field}; set ITEM_ID_FIELD to the one with items."
        )
    frame = file.read(field.__eq__)
    return sorted(filter(None, frame[field].unique().tolist()))


def _categories(cell: str, separator: str) -> list[str]:
    words = cell.split() if separator == " " else cell.split(separator)
    return [word.replace("_", " ").strip() for word in words if word.strip()]


def _hint(column: str) -> str:
    found = collections.Counter(_TYPED.findall(column)).most_common(1)
    if not found:
        return ""
    mark = json.dumps(found[0][0])  # quotes that a shell leaves, since a comma is no YAML value
    return f"; if {mark} separates the columns, say --field_separator='{mark}'"
