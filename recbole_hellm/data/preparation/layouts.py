"""What the columns of a table of interactions or items mean, and their values as plain ones."""

from __future__ import annotations

import ast
import dataclasses
import json
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.data.preparation.atomic import IMAGE, TEXT_COLUMNS
from recbole_hellm.data.preparation.tables import (
    UNPARSABLE,
    Table,
    column_names,
    keeper,
    read_table,
)
from recbole_hellm.errors import ConfigError, DataError

AUTO = "auto"
# Names by role, without case, blanks and punctuation; the first that a file has is taken.
ROLES = {
    "user": "userid user reviewerid uid customerid customer visitorid memberid username",
    "item": "itemid item parentasin asin iid productid product articleid movieid bookid sku",
    "time": "timestamp time unixreviewtime unixtime ts datetime date eventtime createdat",
    "title": "title itemtitle producttitle itemname productname name",
    "brand": "brand manufacturer store maker",
    "categories": "categories category genres genre categorypath maincategory",
    "description": "description desc text overview summary",
    IMAGE: "image images imageurlhighres imageurl imurl imagepath picture",
}
TEXT_ROLES = (*TEXT_COLUMNS, IMAGE)
_AMAZON = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime"}
LAYOUTS: dict[str, Mapping[str, str]] = {
    "table": {},
    "amazon2014": _AMAZON,
    "amazon2018": _AMAZON,
    "amazon2023": {"user": "user_id", "item": "parent_asin", "time": "timestamp"},
}
_TAG = re.compile(r"<.*?>", re.DOTALL)
_ONLY_2018 = frozenset(["verified", "vote", "style", "image"])
_SIZES = ("hi_res", "large", "thumb", "url")  # of a picture in Amazon's 2023 files


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold users, items and times; None is found by name."""

    user: str | None = None
    item: str | None = None
    time: str | None = None


def recognise(columns: Iterable[str]) -> str:
    """The layout of interactions with these columns: a key of :data:`LAYOUTS`."""
    names = set(columns)
    if names.issuperset(_AMAZON.values()):
        return "amazon2018" if names & _ONLY_2018 else "amazon2014"
    return "amazon2023" if names.issuperset(LAYOUTS["amazon2023"].values()) else "table"


def read_interactions(
    path: Path, layout: str = AUTO, columns: Columns | None = None, progress: bool = True
) -> tuple[pd.DataFrame, str]:
    """Users, items and times of a file, in its order.

    Parameters
    ----------
    path : Path
        Delimited text, Parquet or an object a line; see
        :mod:`recbole_hellm.data.preparation.tables`.
    layout : str
        A key of :data:`LAYOUTS`; by default what the column names say.
    columns : Columns, optional
        Names that win over the layout's.
    progress : bool

    Returns
    -------
    DataFrame
        Columns user_id, item_id (str) and timestamp: numbers as they are; dates as whole Unix
        seconds, or microseconds where one of them has a fraction.
    str
        The layout.

    Raises
    ------
    DataError
        If a column is not found, or a row has no user, item or time.
    """
    names = column_names(path)
    layout = recognise(names) if layout == AUTO else layout
    given = columns or Columns()
    chosen = {
        role: _column(path, names, role, getattr(given, role) or LAYOUTS[layout].get(role))
        for role in ("user", "item", "time")
    }
    if len(set(chosen.values())) < 3:
        raise ConfigError(
            f"{path}: users, items and times are three columns, and {', '.join(chosen.values())} "
            "are given; correct --user_column, --item_column and --time_column."
        )
    table = read_table(path, set(chosen.values()).__contains__, progress=progress)
    if table.frame.empty:
        raise DataError(f"{path} holds no interactions; name another file.")
    return pd.DataFrame(
        {
            "user_id": _tokens(table, chosen["user"]),
            "item_id": _tokens(table, chosen["item"]),
            "timestamp": _times(table, chosen["time"]),
        }
    ), layout


def read_item_table(
    path: Path,
    wanted: set[str],
    layout: str = "table",
    item_column: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Texts of the `wanted` items in a file, in its order.

    Parameters
    ----------
    path : Path
    wanted : set of str
        Item tokens.
    layout : str
        A key of :data:`LAYOUTS`. In Amazon's files the first of several rows for an item counts,
        and markup is cut from texts; elsewhere a second row is a mistake.
    item_column : str, optional
        By default found by name.
    progress : bool

    Returns
    -------
    DataFrame
        Columns item_id, title, brand, categories (list of str), description and image, ''
        and [] where missing.

    Raises
    ------
    DataError
        If there is no column for items, an item has two rows, or a cell is no text.
    """
    names = column_names(path)
    own = LAYOUTS[layout].get("item")
    given = item_column if item_column in names else own if own in names else None
    item = _column(path, names, "item", given)
    aliases = {alias for role in TEXT_ROLES for alias in ROLES[role].split()}
    table = read_table(
        path,
        lambda name: name == item or _plain_name(name) in aliases,
        keeper(item, wanted),
        progress,
    )
    rest = [name for name in table.frame.columns if name != item]
    found = {role: _first_named(rest, role) for role in TEXT_ROLES}
    cells = {
        role: table.frame[name].tolist() if name is not None else [None] * len(table.frame)
        for role, name in found.items()
    }
    # Where one column has no picture of an item, another may.
    columns = [table.frame[name].tolist() for name in _all_named(rest, IMAGE)]
    if columns:
        cells[IMAGE] = [list(row) for row in zip(*columns, strict=True)]
    amazon = layout != "table"
    rows: dict[str, list[Any]] = {}
    for row, token in enumerate(_tokens(table, item)):
        if token not in wanted:
            continue
        if token in rows and not amazon:
            raise DataError(f"{table.where(row)} is a second row for item '{token}'; keep one.")
        if token not in rows:
            values = {role: cells[role][row] for role in TEXT_ROLES}
            rows[token] = [token, *_texts(values, amazon, table, row, found)]
    return pd.DataFrame(list(rows.values()), columns=["item_id", *TEXT_ROLES])


def _column(path: Path, names: Sequence[str], role: str, given: str | None) -> str:
    has = f"it has {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
    if given is not None:
        if given not in names:
            raise DataError(
                f"{path} has no column '{given}' ({has}); name the column of {role}s with "
                f"--{role}_column."
            )
        return given
    found = _first_named(names, role)
    if found is None:
        raise DataError(
            f"{path} has no column known to hold {role}s ({has}); name it with --{role}_column."
        )
    return found


def _first_named(names: Iterable[str], role: str) -> str | None:
    return next(iter(_all_named(names, role)), None)


def _all_named(names: Iterable[str], role: str) -> list[str]:
    """Columns known for a role, the best first."""
    by_alias: dict[str, str] = {}
    for name in names:
        by_alias.setdefault(_plain_name(name), name)
    return [by_alias[alias] for alias in ROLES[role].split() if alias in by_alias]


def _plain_name(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _tokens(table: Table, column: str) -> list[str]:
    """Ids as texts; whole numbers are written without a point."""
    tokens = []
    for row, value in enumerate(table.frame[column].tolist()):
        token = ""
        if isinstance(value, str):
            token = value.strip()
        elif isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
            number = float(value)
            exact = isinstance(value, numbers.Integral)
            token = str(int(value)) if exact or number.is_integer() else ""  # type: ignore[call-overload]
        # Not printable are tabs and line ends, and what UTF-8 cannot hold.
        if not token or not token.isprintable():
            shown = "empty" if _is_missing(value) else f"{value!a:.60}"
            raise DataError(
                f"{table.where(row)}: the {column} is {shown}, and an id must be a non-empty, "
                "printable text or a whole number; mend or drop the row."
            )
        tokens.append(token)
    return tokens


def _times(table: Table, column: str) -> pd.Series:
    values = table.frame[column]
    missing = np.flatnonzero(values.isna().to_numpy())
    if missing.size:
        raise DataError(f"{table.where(missing[0])}: the {column} is empty; fill in or drop it.")
    if not pd.api.types.is_numeric_dtype(values) and not _is_number(values.iloc[0]):
        return _dates(table, column)
    times = pd.to_numeric(values, errors="coerce")
    exact = np.abs(times.to_numpy(dtype=np.float64)) < 2**53  # False for NaN
    truths = values.map(type).isin((bool, np.bool_)).to_numpy()
    bad = np.flatnonzero(~exact | truths)
    if bad.size:
        raise DataError(
            f"{table.where(bad[0])}: the {column} is {values.iloc[bad[0]]!a:.60}, which is no "
            "number below 2^53; give Unix seconds or milliseconds, or dates such as 2014-07-23."
        )
    return times.reset_index(drop=True)


def _dates(table: Table, column: str) -> pd.Series:
    values = table.frame[column]
    try:
        moments = pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601")
    except UNPARSABLE:
        moments = pd.Series(pd.NaT, index=values.index)
    bad = np.flatnonzero(moments.isna().to_numpy())
    if bad.size:
        raise DataError(
            f"{table.where(bad[0])}: the {column} is {str(values.iloc[bad[0]])!a:.60}, which is no "
            "date such as 2014-07-23 or 2014-07-23T12:30:00Z; mend it, or give Unix times."
        )
    micros = moments.dt.as_unit("us").astype(np.int64).reset_index(drop=True)
    whole = bool((micros % 1_000_000 == 0).all())
    return micros // 1_000_000 if whole else micros


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, numbers.Real)


def _texts(
    values: Mapping[str, Any],
    amazon: bool,
    table: Table,
    row: int,
    found: Mapping[str, str | None],
) -> Iterator[Any]:
    for role, cell in values.items():
        try:
            value = _from_arrays(cell)
            if role == "categories":
                elements = [_clean(element, amazon) for element in _path(value)]
                yield [element for element in elements if element]
            else:
                yield _clean(_picture(value) if role == IMAGE else _joined(value), amazon)
        except TypeError as error:
            raise DataError(
                f"{table.where(row)}: the {found[role]} is {error}; mend it."
            ) from error


def _clean(text: str, amazon: bool) -> str:
    return " ".join((_TAG.sub("", text) if amazon else text).split())


def _plain(value: Any) -> str:
    if _is_missing(value):
        return ""
    if isinstance(value, (str, numbers.Real)):
        return str(value).encode("utf-8", "replace").decode("utf-8")
    raise TypeError(f"a {type(value).__name__} and no text")


def _joined(value: Any) -> str:
    """A text, or the words of a list of texts."""
    return " ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)


def _path(value: Any) -> list[str]:
    """A path of categories: a list, the first of a list of lists, or a text that spells a path."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = _listed(text)
            except UNPARSABLE:
                return [text]
        else:
            mark = next((mark for mark in ("|", ">", ";") if mark in text), None)
            return text.split(mark) if mark else [text]
    if isinstance(value, list):
        first = value[0] if value else None
        return list(map(_plain, _from_arrays(first) if _is_list(first) else value))
    return [_plain(value)]


def _picture(value: Any) -> str:
    """The address or path of one picture: the first, and its largest size, where there are more."""
    if isinstance(value, list):
        addresses = (_picture(_from_arrays(element)) for element in value)
        return next((address for address in addresses if address), "")
    if isinstance(value, dict):
        addresses = (_picture(_from_arrays(value[size])) for size in _SIZES if size in value)
        return next((address for address in addresses if address), "")
    return _plain(value)


def _listed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _from_arrays(value: Any) -> Any:
    """Parquet's arrays as lists."""
    return list(value) if _is_list(value) else value


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
