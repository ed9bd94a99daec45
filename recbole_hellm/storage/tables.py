"""Parquet tables that this package writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from recbole_hellm.errors import HellmError, reason
from recbole_hellm.storage.text_files import open_regular


def read_parquet(
    path: Path,
    columns: Sequence[str] | None,
    error: type[HellmError],
    way_out: str,
    optional: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a Parquet table.

    Parameters
    ----------
    path : Path
    columns : sequence of str, optional
        Those to read; all by default.
    error, way_out : type, str
        What is raised, and the end of its sentence.
    optional : sequence of str
        Further columns to read where they are there.

    Raises
    ------
    HellmError
        If it is missing or damaged, or lacks a column.
    """
    try:
        with open_regular(path) as opened:
            file = pyarrow.parquet.ParquetFile(opened)
            lacking = [name for name in columns or () if name not in file.schema_arrow.names]
            if lacking:
                raise error(f"{path} is damaged (it has no column '{lacking[0]}'); {way_out}.")
            there = [name for name in optional if name in file.schema_arrow.names]
            table = file.read(columns=None if columns is None else [*columns, *there])
        table.validate(full=True)
        # What pandas noted beside the table adds nothing, and nothing checks it.
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    except FileNotFoundError as cause:
        raise error(f"{path} is missing; {way_out}.") from cause
    except (OSError, ValueError, TypeError, KeyError, MemoryError, pa.ArrowException) as cause:
        raise error(f"{path} is damaged ({reason(cause)}); {way_out}.") from cause
    return frame
