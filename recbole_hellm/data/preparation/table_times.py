"""Times of a table as numbers."""

from __future__ import annotations

import numbers
import re
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.data.preparation.object_files import UNPARSABLE
from recbole_hellm.data.preparation.table_files import Table
from recbole_hellm.errors import ConfigError, DataError

SHORT = {"seconds": "s", "milliseconds": "ms", "microseconds": "us"}
"""Units of Unix times, as pandas names them."""
_EARLIEST = 1e8  # seconds: 1973
_LATEST = 1e11  # seconds: the year 5138


def times(table: Table, column: str, time_format: str | None = None) -> pd.Series:
    """Times as numbers: numbers as they are, dates as Unix time.

    Parameters
    ----------
    table : Table
    column : str
    time_format : str, optional
        How times are written, in Python's directives such as ``%d.%m.%Y``; by default they are
        numbers or dates in ISO 8601. A time without a zone is one of UTC.

    Returns
    -------
    Series
        Of dates, whole seconds, or microseconds where one of them has a fraction.

    Raises
    ------
    ConfigError
        If there is no such format.
    DataError
        If a time is missing, or neither a number below 2^53 nor a date.
    """
    values = table.frame[column]
    missing = np.flatnonzero(values.isna().to_numpy())
    if missing.size:
        raise DataError(
            f"{table.where(missing[0])}: the {column} is empty; fill it in or drop the row."
        )
    if time_format is not None:
        return _formatted(table, column, time_format)
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


def unit_of(moment: float) -> str | None:
    """What a number is likely to count if it is a Unix time of these decades; None if it is none.

    Examples
    --------
    >>> unit_of(1_400_000_000), unit_of(1_400_000_000_000), unit_of(17)
    ('seconds', 'milliseconds', None)
    """
    for unit in SHORT:
        if _EARLIEST <= moment < _LATEST:
            return unit
        moment /= 1000
    return None


def _dates(table: Table, column: str) -> pd.Series:
    values = table.frame[column]
    try:
        moments = pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601")
    except UNPARSABLE:
        moments = pd.Series(pd.NaT, index=values.index)
    return _unix(
        table,
        column,
        moments,
        "a date such as 2014-07-23 or 2014-07-23T12:30:00Z; correct it, give Unix times, or say "
        "how dates are written, for example --time_format=%d.%m.%Y",
    )


def _formatted(table: Table, column: str, time_format: str) -> pd.Series:
    texts = table.frame[column].map(lambda value: str(value).strip())
    try:
        if "%" not in time_format:  # pandas has words for guessing
            raise ValueError("it has no directive")
        moments = pd.to_datetime(texts, utc=True, errors="coerce", format=time_format)
    except (*UNPARSABLE, re.error) as error:
        raise ConfigError(
            f"time_format={time_format!r} is not a format of dates ({error}); use Python's "
            "directives, as in %d.%m.%Y %H:%M."
        ) from error
    return _unix(
        table, column, moments, f"a date as --time_format={time_format} has it; correct one"
    )


def _unix(table: Table, column: str, moments: pd.Series, expected: str) -> pd.Series:
    bad = np.flatnonzero(moments.isna().to_numpy())
    if bad.size:
        value = str(table.frame[column].iloc[bad[0]])
        raise DataError(
            f"{table.where(bad[0])}: the {column} is {value!a:.60}, which is not {expected}."
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
