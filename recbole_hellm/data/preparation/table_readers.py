"""Interactions and texts of items from any file that holds a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from recbole_hellm.data.preparation.atomic import IMAGE
from recbole_hellm.data.preparation.column_roles import (
    TABLE,
    TEXT_ALIASES,
    TEXT_ROLES,
    Layout,
    all_named,
    first_named,
    plain_name,
    role_column,
)
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.data.preparation.table_cells import category_path, ids, picture, text, times
from recbole_hellm.data.preparation.table_files import Table, TableFile, keeper
from recbole_hellm.errors import ConfigError, DataError

NOBODY = "of items without interactions"
"""Why most rows of a table of items are left out."""


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
        Filled with what became of the rows and columns.

    Returns
    -------
    DataFrame
        Columns user_id, item_id (str) and timestamp: numbers as they are; dates as whole Unix
        seconds, or microseconds where one of them has a fraction.

    Raises
    ------
    ConfigError
        If two roles have the same column.
    DataError
        If a column is not found, or a row has no user, item or time.
    """
    columns = {
        role: role_column(file, role, getattr(layout, role)) for role in ("user", "item", "time")
    }
    if len(set(columns.values())) < 3:
        raise ConfigError(
            f"{file.path}: users, items and times are three columns, not "
            f"{', '.join(columns.values())}; correct --user_column, --item_column and "
            "--time_column."
        )
    table = file.read(set(columns.values()).__contains__, progress=progress)
    if table.frame.empty:
        raise DataError(f"{file.path} holds no interactions; name another file.")
    _count(counts, table, columns.values())
    return pd.DataFrame(
        {
            "user_id": ids(table, columns["user"]),
            "item_id": ids(table, columns["item"]),
            "timestamp": times(table, columns["time"]),
        }
    )


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
    )
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
    _count(counts, table, [item_column, *filter(None, columns.values()), *picture_columns])
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
                    rows[token].append(read_cell(cells[role][row], layout.tags_removed))
                except TypeError as error:
                    raise DataError(
                        f"{table.where(row)}: the {columns[role]} is {error}; correct it."
                    ) from error
        elif not layout.first_row_counts:
            raise DataError(f"{table.where(row)} is a second row for item '{token}'; keep one.")
        else:
            repeated += 1
    if counts is not None:
        counts.add(NOBODY, unbought)
        counts.add("further rows of an item", repeated)
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


def _count(counts: RowCounts | None, table: Table, taken: Iterable[str]) -> None:
    if counts is not None:
        counts.read = len(table.frame)
        counts.columns_taken = list(dict.fromkeys(taken))
        counts.columns_left = [name for name in table.columns if name not in counts.columns_taken]
