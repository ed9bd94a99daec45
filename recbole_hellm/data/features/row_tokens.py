"""Files that say which item each row of a table of features belongs to."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from recbole_hellm.data.features.store import check_tokens
from recbole_hellm.data.preparation.delimited_text import TextFormat
from recbole_hellm.data.preparation.table_files import TableFile
from recbole_hellm.errors import DataError, FeatureError
from recbole_hellm.storage.json_files import fit, parse_json
from recbole_hellm.storage.text_files import UTF8, read_text

_ROW_NAMES = ("row", "rownumber", "index", "rowindex", "rowid")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_LARGE = 1 << 31  # bytes; a catalogue may have many millions of items


@dataclasses.dataclass(frozen=True)
class Rows:
    """Whose the rows of a table are.

    Attributes
    ----------
    of : mapping of str to int
        Numbers of rows, from 0, by item token.
    rule : str
        How that is known, for the manifest.
    count : int, optional
        How many rows there must be; None where that is not told.
    path : Path, optional
        The file that tells it.
    """

    of: Mapping[str, int]
    rule: str
    count: int | None = None
    path: Path | None = None


def read_rows(path: Path, encoding: str = UTF8) -> Rows:
    """Whose rows are, from a file.

    A ``.json`` file is a list of item tokens in the order of rows. A ``.csv`` or ``.tsv`` file has
    two columns, item tokens and numbers of rows from 0, under a header or none; any delimiter is
    recognised. Any other file has a token per line, in the order of rows; quotes around all of them
    are left out.

    Parameters
    ----------
    path : Path
    encoding : str
        Encoding of its texts.

    Raises
    ------
    DataError
        If it cannot be read.
    FeatureError
        If a token or a number of a row occurs twice, or is none.
    """
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return read_mapping(path, encoding)
    way_out = (
        "name a text file with one item token per line, a .json list, or a .csv or .tsv with item "
        "and row number"
    )
    text = read_text(path, DataError, way_out, encoding, _LARGE)
    if kind == ".json":
        written = parse_json(text, path, DataError, way_out)
        values = fit(written, list[str | int | float], path, FeatureError, way_out)
        tokens = [_token(value, row, path) for row, value in enumerate(values)]
    else:
        tokens = [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []
        if all(map(_QUOTED.fullmatch, tokens)):  # as R and pandas write texts
            tokens = [token[1:-1].replace('""', '"') for token in tokens]
    check_tokens(tokens, path)
    if "" in tokens:
        raise FeatureError(
            f"tokens={path}: the token of row {tokens.index('')} is empty; write one for every row."
        )
    return Rows({token: row for row, token in enumerate(tokens)}, "tokens", len(tokens), path)


def _token(value: str | float, row: int, path: Path) -> str:
    """An id as `prepare` writes it: whole numbers without a point."""
    if isinstance(value, float):
        if not value.is_integer():
            raise FeatureError(
                f"{path}: the token of row {row} is {value}, and an id is a text or a whole "
                "number; correct it."
            )
        value = int(value)
    return str(value).strip()


def read_mapping(path: Path, encoding: str = UTF8) -> Rows:
    """Whose rows are, from a table of two columns: item tokens and numbers of rows.

    Raises
    ------
    DataError
        If it cannot be read.
    FeatureError
        If a token or a number of a row occurs twice, or is none.
    """
    file = TableFile(path, TextFormat(encoding=encoding))
    header = file.text.header if file.kind == "text" else []
    if len(header) == 2 and any(cell.isdecimal() for cell in header):  # it is a row
        file = TableFile(path, TextFormat(("item", "row"), encoding=encoding))
    table = file.read(lambda _: True, progress=False)
    if len(table.columns) != 2:
        raise FeatureError(
            f"{path} has {len(table.columns)} columns ({', '.join(table.columns[:6])}); keep two: "
            "item token and row number."
        )
    lines = table.frame.fillna("").astype(str).to_numpy().tolist()
    lines = [[cell.strip() for cell in line] for line in lines]
    columns = list(zip(*lines, strict=True))
    numbers = [all(cell.isdecimal() for cell in column) for column in columns] or [False, False]
    named = "".join(filter(str.isalnum, table.columns[0].lower())) in _ROW_NAMES
    if not any(numbers):
        bad = next((cell for cell in (line[1] for line in lines) if not cell.isdecimal()), "")
        raise FeatureError(
            f"{path} has no column of row numbers ({table.columns[1]} has {bad!r}); give each item "
            "the number of its row, from 0."
        )
    first = numbers[0] and (named or not numbers[1])
    tokens, rows = columns if not first else columns[::-1]
    check_tokens(tokens, path)
    of = {token: int(row) for token, row in zip(tokens, rows, strict=True)}
    taken: dict[int, str] = {}
    for token, row in of.items():
        if taken.setdefault(row, token) != token:
            raise FeatureError(
                f"{path} gives '{taken[row]}' and '{token}' the one row {row}; give each its own."
            )
    return Rows(of, "mapping", None, path)
