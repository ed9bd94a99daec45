"""Interactions and texts of items from any file that holds a table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.data.preparation.atomic import IMAGE
from recbole_hellm.data.preparation.column_roles import (
    TABLE,
    TEXT_ALIASES,
    TEXT_ROLES,
    Layout,
    all_named,
    first_named,
    has_numbered_header,
    known_names,
    plain_name,
    role_column,
)
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.data.preparation.table_cells import (
    Cleaning,
    category_path,
    doubtful_ids,
    ids,
    misread,
    picture,
    text,
)
from recbole_hellm.data.preparation.table_files import NOBODY, Table, TableFile, keeper
from recbole_hellm.data.preparation.table_times import SHORT, times, unit_of
from recbole_hellm.errors import ConfigError, DataError

_ENOUGH = 100  # cells that tell what ids look like
_LONG_ID = 8


def read_interactions(
    file: TableFile,
    layout: Layout = TABLE,
    progress: bool = True,
    counts: RowCounts | None = None,
) -> pd.DataFrame:
    """Users, items and times of a file, in its order.

    Parameters
    ----------
    file : TableFile
    layout : Layout
        What its columns mean.
    progress : bool
        Show a progress bar where rows are objects.
    counts : RowCounts, optional
        Filled with what became of the rows and columns. Rows without a user, item or time are
        then left out and counted; without it, they are an error.

    Returns
    -------
    DataFrame
        Columns user_id, item_id (str) and timestamp: numbers as they are; dates as whole Unix
        seconds, or microseconds where one of them has a fraction; numbers of rows where no column
        holds times.

    Raises
    ------
    ConfigError
        If two roles have the same column.
    DataError
        If a column is not found, or a row has no user, item or time.
    """
    columns = {role: role_column(file, role, getattr(layout, role)) for role in ("user", "item")}
    timed = layout.time is not None or first_named(file.columns, "time") is not None
    if timed:
        columns["time"] = role_column(file, "time", layout.time)
    if len(set(columns.values())) < len(columns):
        raise ConfigError(
            f"{file.path}: users, items and times are three columns, not "
            f"{', '.join(columns.values())}; correct --user_column, --item_column and "
            "--time_column."
        )
    known = RowCounts() if counts is None else counts
    table = file.read(set(columns.values()).__contains__, progress=progress, counts=known)
    _check_header(table, columns.values())
    if counts is not None:
        table = _without_missing(table, columns.values(), counts)
    if table.frame.empty:
        raise DataError(f"{file.path} holds no interactions; name another file.")
    _count_columns(known, table, columns.values())
    _note_header(table, known)
    frame = pd.DataFrame(
        {"user_id": ids(table, columns["user"]), "item_id": ids(table, columns["item"])}
    )
    for role in ("user", "item"):
        for doubt in doubtful_ids(frame[f"{role}_id"]):
            known.note(f"{file.path.name}: in {columns[role]}, {doubt}.", warn=True)
    _check_encoding(file, [*frame["user_id"], *frame["item_id"]])
    if timed:
        frame["timestamp"] = times(table, columns["time"], layout.time_format)
        _note_times(table, columns["time"], frame["timestamp"], known)
    else:
        frame["timestamp"] = np.arange(len(frame))
        known.note(
            f"{file.path.name} has no column known to hold times (it has "
            f"{', '.join(file.columns)}), so the order of its rows is taken for that of time; if a "
            "column holds times, name it with --time_column.",
            warn=True,
        )
    return frame


def read_item_table(
    file: TableFile,
    wanted: set[str],
    layout: Layout = TABLE,
    progress: bool = True,
    counts: RowCounts | None = None,
) -> pd.DataFrame:
    """Texts of the `wanted` items in a file, in its order.

    Parameters
    ----------
    file : TableFile
    wanted : set of str
        Item tokens.
    layout : Layout
        What its columns mean. Where the file does not have the layout's column of items, another
        one known for items is taken.
    progress : bool
        Show a progress bar where rows are objects.
    counts : RowCounts, optional
        Filled with what became of the rows and columns.

    Returns
    -------
    DataFrame
        Columns item_id, title, brand, categories (list of str), description and image, ''
        and [] where missing.

    Raises
    ------
    DataError
        If there is no column of items, an item has two rows, or a cell is not a text.
    """
    known = RowCounts() if counts is None else counts
    item_column = _item_column(file, layout)
    named = {
        role: role_column(file, role, column, "item_columns")
        for role, column in layout.texts.items()
    }
    table = file.read(
        lambda name: (
            name == item_column or name in named.values() or plain_name(name) in TEXT_ALIASES
        ),
        keeper(item_column, wanted),
        progress,
        known,
    )
    _check_header(table, [item_column])
    names = [name for name in table.frame.columns if name not in (item_column, *named.values())]
    columns = {role: named.get(role) or first_named(names, role) for role in TEXT_ROLES}
    cells = {
        role: [None] * len(table.frame) if name is None else table.frame[name].tolist()
        for role, name in columns.items()
    }
    # Where one column has no picture of an item, another may.
    picture_columns = [] if IMAGE in named else all_named(names, IMAGE)
    pictures = [table.frame[name].tolist() for name in picture_columns]
    if pictures:
        cells[IMAGE] = [list(row) for row in zip(*pictures, strict=True)]
    _count_columns(known, table, [item_column, *filter(None, columns.values()), *picture_columns])
    if counts is not None:
        kept = _without_missing(table, [item_column], counts)
        cells = {role: _left(column, kept) for role, column in cells.items()}
        table = kept
    cleaning = Cleaning(layout.tags_removed, layout.entities_resolved)
    unbought = repeated = 0
    rows: dict[str, list[Any]] = {}
    for row, token in enumerate(ids(table, item_column)):
        if token not in wanted:
            unbought += 1
            continue
        if token not in rows:
            rows[token] = [token]
            for role in TEXT_ROLES:
                read_cell = {"categories": category_path, IMAGE: picture}.get(role, text)
                try:
                    rows[token].append(read_cell(cells[role][row], cleaning))
                except TypeError as error:
                    raise DataError(
                        f"{table.where(row)}: the {columns[role]} is {error}; correct it."
                    ) from error
        elif not layout.first_row_counts:
            raise DataError(f"{table.where(row)} is a second row for item '{token}'; keep one.")
        else:
            repeated += 1
    _check_encoding(file, (cell for row in rows.values() for cell in row if isinstance(cell, str)))
    known.add(NOBODY, unbought)
    known.add("further rows of an item", repeated)
    if cleaning.scripts:
        known.note(
            f"{file.path.name}: {cleaning.scripts:,} texts are scripts or style sheets, and count "
            "as missing.",
            warn=True,
        )
    return pd.DataFrame(list(rows.values()), columns=["item_id", *TEXT_ROLES])


def item_ids(file: TableFile, layout: Layout = TABLE) -> list[str]:
    """Ids of all items in a table of items, see :func:`read_item_table`."""
    column = _item_column(file, layout)
    return ids(file.read(column.__eq__, progress=False), column)


def _item_column(file: TableFile, layout: Layout) -> str:
    own_column = layout.item if layout.item in file.columns else None
    return role_column(
        file, "item", layout.items_item or own_column, "item_columns", "items_item_column"
    )


def _check_encoding(file: TableFile, texts: Iterable[str]) -> None:
    """Check that a file is not UTF-8 where another encoding is named."""
    encoding = file.text_format.encoding
    example = misread(texts, encoding)
    if example is not None:
        raise DataError(
            f"{file.path} is encoded in UTF-8, not in {encoding}, which makes '{example:.40}' of "
            f"'{example.encode(encoding).decode():.40}'; leave --encoding out, and if the other "
            "file needs it, save that one in UTF-8 or name its encoding alone (--item_encoding)."
        )


def _count_columns(counts: RowCounts, table: Table, taken: Iterable[str]) -> None:
    counts.columns_taken = list(dict.fromkeys(taken))
    counts.columns_left = [name for name in table.columns if name not in counts.columns_taken]


def _check_header(table: Table, columns: Iterable[str]) -> None:
    """Check that line 1 is not one of the rows: a name is no value of its column."""
    file = table.file
    if file.kind != "text" or has_numbered_header(file):
        return
    if file.text_format.columns is not None:
        first = [str(cell).strip() for cell in table.frame[list(columns)].iloc[:1].to_numpy().flat]
        if first and len(known_names(first)) >= len(first):
            raise DataError(
                f"{table.where(0)} looks like names of columns ({', '.join(first)}); remove the "
                "line, or leave out the option that names all columns."
            )
        return
    names = dict(zip(file.columns, file.text.header, strict=True))
    for column in columns:
        same = np.flatnonzero((table.frame[column] == names[column]).to_numpy(dtype=bool))
        if same.size:
            raise DataError(
                f"{table.where(same[0])} has '{names[column]}' in the column of that name; remove "
                "the line if it is a second header, or if line 1 is data, name all columns with "
                "--columns, or of a table of items with --item_columns."
            )
        cells = table.frame[column].dropna().head(_ENOUGH)
        if len(cells) and all(_alike(names[column], str(cell).strip()) for cell in cells):
            raise DataError(
                f"{file.path}, line 1 has '{names[column]}' where the rows have ids such as "
                f"'{cells.iloc[0]}', so it looks like data; name all columns with --columns, or of "
                "a table of items with --item_columns, or rename the column if it is a name."
            )


def _alike(name: str, cell: str) -> bool:
    """Whether a name with digits could be one of the ids below it."""
    if not any(map(str.isdigit, name)):
        return False
    shapes = {re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text)) for text in (name, cell)}
    long = len(name) == len(cell) >= _LONG_ID and name.isalnum() and cell.isalnum()
    return len(shapes) == 1 or (long and any(map(str.isdigit, cell)))


def _note_header(table: Table, counts: RowCounts) -> None:
    """Say that line 1 holds names, where none of them is known."""
    file = table.file
    if file.kind == "text" and file.text_format.columns is None and not known_names(file.columns):
        counts.note(
            f"{file.path.name}: line 1 ({', '.join(file.columns[:12])}) is taken for names of "
            "columns; if it is data, name all columns with --columns.",
            warn=True,
        )


def _without_missing(table: Table, columns: Iterable[str], counts: RowCounts) -> Table:
    """The rows in which none of the columns is empty; others are counted."""
    for column in columns:
        values = table.frame[column]
        missing = values.isna().to_numpy(dtype=bool).copy()
        if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
            blank = [isinstance(cell, str) and not cell.strip() for cell in values]
            missing |= np.array(blank, dtype=bool)
        if missing.any():
            count, first = int(missing.sum()), int(missing.argmax())
            counts.add(f"without {column}", count)
            counts.note(
                f"{_place(table, first)}: the {column} is empty; rows without it are left out "
                f"({count:,}).",
                warn=True,
            )
            table = table.without(missing)
    return table


def _place(table: Table, row: int) -> str:
    """Name of the file and line of a row, for notes, which are kept."""
    return f"{table.file.path.name}{table.where(row).removeprefix(str(table.file.path))}"


def _left(cells: list[Any], table: Table) -> list[Any]:
    return cells if table.rows is None else [cells[row] for row in table.rows]


def _note_times(table: Table, column: str, times: pd.Series, counts: RowCounts) -> None:
    """Say what times were taken for."""
    first, last = float(times.min()), float(times.max())
    unit, last_unit = unit_of(first), unit_of(last)
    where = f"{table.file.path.name}: the {column}"
    if unit is None and last_unit is None:
        counts.note(f"{where} goes from {first:.15g} to {last:.15g}.")
    elif unit is None or last_unit is None:
        counts.note(
            f"{where} goes from {first:.15g} to {last:.15g}, so some are Unix "
            f"{unit or last_unit} of these decades and others are not; correct those.",
            warn=True,
        )
    elif unit != last_unit:
        counts.note(
            f"{where} goes from {first:.15g} to {last:.15g}, so some are Unix {unit} and "
            f"others {last_unit}; write all in one unit.",
            warn=True,
        )
    else:
        days = [str(pd.Timestamp(moment, unit=SHORT[unit]).date()) for moment in (first, last)]
        counts.note(f"{where} is taken for Unix {unit}, from {days[0]} to {days[1]}.")
