"""Cells of a table as plain values: ids, times, texts, categories and pictures."""

from __future__ import annotations

import ast
import json
import numbers
import re
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.data.preparation.atomic import is_missing
from recbole_hellm.data.preparation.object_files import UNPARSABLE
from recbole_hellm.data.preparation.table_files import Table
from recbole_hellm.errors import DataError

_TAG = re.compile(r"<.*?>", re.DOTALL)
_SIZES = ("hi_res", "large", "thumb", "url")  # of a picture in Amazon's 2023 files


def ids(table: Table, column: str) -> list[str]:
    """Ids as texts; whole numbers are written without a point.

    Raises
    ------
    DataError
        If an id is empty, not printable, or neither a text nor a whole number.
    """
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
            shown = "empty" if is_missing(value) else f"{value!a:.60}"
            raise DataError(
                f"{table.where(row)}: the {column} is {shown}, and an id must be a non-empty, "
                "printable text or a whole number; correct or drop the row."
            )
        tokens.append(token)
    return tokens


def times(table: Table, column: str) -> pd.Series:
    """Times as numbers: numbers as they are, dates as Unix time.

    Returns
    -------
    Series
        Of dates, whole seconds, or microseconds where one of them has a fraction.

    Raises
    ------
    DataError
        If a time is missing, or neither a number below 2^53 nor a date in ISO 8601.
    """
    values = table.frame[column]
    missing = np.flatnonzero(values.isna().to_numpy())
    if missing.size:
        raise DataError(
            f"{table.where(missing[0])}: the {column} is empty; fill it in or drop the row."
        )
    if not pd.api.types.is_numeric_dtype(values) and not _is_number(values.iloc[0]):
        return _dates(table, column)
    moments = pd.to_numeric(values, errors="coerce")
    # Beyond 2^53 a float, which is what RecBole reads, would be another number; False for NaN.
    exact = np.abs(moments.to_numpy(dtype=np.float64)) < 2**53
    truths = values.map(type).isin((bool, np.bool_)).to_numpy()
    bad = np.flatnonzero(~exact | truths)
    if bad.size:
        raise DataError(
            f"{table.where(bad[0])}: the {column} is {values.iloc[bad[0]]!a:.60}, which is not a "
            "number below 2^53; give Unix seconds or milliseconds, or dates such as 2014-07-23."
        )
    return moments.reset_index(drop=True)


def _dates(table: Table, column: str) -> pd.Series:
    values = table.frame[column]
    try:
        moments = pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601")
    except UNPARSABLE:
        moments = pd.Series(pd.NaT, index=values.index)
    bad = np.flatnonzero(moments.isna().to_numpy())
    if bad.size:
        raise DataError(
            f"{table.where(bad[0])}: the {column} is {str(values.iloc[bad[0]])!a:.60}, which is "
            "not a date such as 2014-07-23 or 2014-07-23T12:30:00Z; correct it, or give Unix times."
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


def text(value: Any, tags_removed: bool = False) -> str:
    """A text, or the words of a list of texts, with single blanks.

    Raises
    ------
    TypeError
        If it is neither.
    """
    value = _as_list(value)
    words = " ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
    return _clean(words, tags_removed)


def category_path(value: Any, tags_removed: bool = False) -> list[str]:
    """A path of categories: a list, the first of a list of lists, or a text that spells a path.

    Raises
    ------
    TypeError
        If an element is not a text.
    """
    elements = (_clean(element, tags_removed) for element in _path(_as_list(value)))
    return [element for element in elements if element]


def picture(value: Any, tags_removed: bool = False) -> str:
    """The address or path of one picture: the first, and its largest size, where there are more.

    Raises
    ------
    TypeError
        If it is not a text.
    """
    return _clean(_first_picture(_as_list(value)), tags_removed)


def _clean(words: str, tags_removed: bool) -> str:
    return " ".join((_TAG.sub("", words) if tags_removed else words).split())


def _plain(value: Any) -> str:
    if is_missing(value):
        return ""
    if isinstance(value, (str, numbers.Real)):
        return str(value).encode("utf-8", "replace").decode("utf-8")
    raise TypeError(f"a {type(value).__name__}, not a text")


def _path(value: Any) -> list[str]:
    if isinstance(value, str):
        spelled = value.strip()
        if spelled.startswith("["):
            try:
                value = _parsed_list(spelled)
            except UNPARSABLE:
                return [spelled]
        else:
            mark = next((mark for mark in ("|", ">", ";") if mark in spelled), None)
            return spelled.split(mark) if mark else [spelled]
    if isinstance(value, list):
        first = value[0] if value else None
        return list(map(_plain, _as_list(first) if _is_list(first) else value))
    return [_plain(value)]


def _first_picture(value: Any) -> str:
    if isinstance(value, list):
        addresses = (_first_picture(_as_list(element)) for element in value)
        return next((address for address in addresses if address), "")
    if isinstance(value, dict):
        addresses = (_first_picture(_as_list(value[size])) for size in _SIZES if size in value)
        return next((address for address in addresses if address), "")
    return _plain(value)


def _parsed_list(spelled: str) -> Any:
    try:
        return json.loads(spelled)
    except ValueError:
        return ast.literal_eval(spelled)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _as_list(value: Any) -> Any:
    """Parquet's arrays as lists."""
    return list(value) if _is_list(value) else value
