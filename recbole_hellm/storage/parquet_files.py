"""Parquet files: whatever is wrong with one ends in a sentence that names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from recbole_hellm.errors import HellmError
from recbole_hellm.storage.text_files import open_regular


def read_parquet(
    path: Path, error: type[HellmError], way_out: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a Parquet file whole.

    Parameters
    ----------
    path : Path
    error, way_out : type, str
        What is raised, and the end of its sentence.
    columns : sequence of str, optional
        Columns that are wanted, and must be there; all by default.

    Raises
    ------
    HellmError
        If the file cannot be read, is no Parquet, is damaged, or lacks a column.
    """
    try:
        with open_regular(path) as opened:
            file = pyarrow.parquet.ParquetFile(opened)
            names = file.schema_arrow.names
            lacking = [name for name in columns or () if name not in names]
            if lacking:
                raise error(f"{path} has no column '{lacking[0]}'; {way_out}.")
            table = file.read(columns=None if columns is None else list(columns))
        table.validate(full=True)
        # What pandas noted beside the table adds nothing, and is not checked when it is read.
        return table.to_pandas(ignore_metadata=True)
    except (OSError, ValueError, TypeError, KeyError, MemoryError, pa.ArrowException) as cause:
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise error(f"{path} cannot be read as Parquet ({reason}); {way_out}.") from cause
