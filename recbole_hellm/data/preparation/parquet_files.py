"""Tables in Parquet, with columns of any type as plain values."""

from __future__ import annotations

import contextlib
import decimal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_hellm.data.preparation.delimited_text import reason_of
from recbole_hellm.data.preparation.object_files import UNPARSABLE
from recbole_hellm.data.preparation.packed_files import UNREADABLE, open_binary
from recbole_hellm.errors import DataError


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Names of all columns of a Parquet file.

    Raises
    ------
    DataError
        If it is none, or two columns share a name.
    """
    import pyarrow.parquet as pq

    with _errors(path), open_binary(path) as file:
        names = tuple(pq.read_schema(file).names)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"{path} has two columns '{repeated}'; rename one of them.")
    return names


def read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a Parquet file.

    Returns
    -------
    DataFrame
        Whole decimals are int and others float; bytes that are text are str; categories are what
        they stand for.

    Raises
    ------
    DataError
        If the file is damaged, or a column has a type without plain values.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _errors(path), open_binary(path) as file:
        table = pq.read_table(file, columns=list(columns)).select(list(columns))
    series = {}
    for name, column in zip(columns, table.columns, strict=True):
        kind = column.type
        with _errors(path, f"the column '{name}' of type {kind} cannot be read"):
            if pa.types.is_dictionary(kind):
                column, kind = column.cast(kind.value_type), kind.value_type
            if pa.types.is_duration(kind) or pa.types.is_time(kind):
                raise DataError(
                    f"{path}: the column '{name}' has the type {kind}, which is no point in time; "
                    "write timestamps, or Unix times as int64."
                )
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                column = column.cast(pa.large_string())
            # An index that pandas noted in the file is a column like any other.
            values = column.to_pandas()
            if pa.types.is_integer(kind) and column.null_count:  # pandas would make them floats
                values = pd.Series(column.to_pylist(), dtype=object)
            if pa.types.is_decimal(kind):
                values = pd.Series([_number(value) for value in values], dtype=object)
        series[name] = values.reset_index(drop=True)
    return pd.DataFrame(series, index=pd.RangeIndex(len(table)), columns=list(columns))


def _number(value: Any) -> Any:
    if not isinstance(value, decimal.Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)


@contextlib.contextmanager
def _errors(path: Path, what: str = "it is not a Parquet file") -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, *UNPARSABLE, *UNREADABLE) as error:
        raise DataError(f"{path}: {what} ({reason_of(error)}); write it again.") from error
