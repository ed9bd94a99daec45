"""Parquet tables that this package writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from recbole_hellm.errors import HellmError, reason


def read_parquet(
    path: Path, columns: Sequence[str] | None, error: type[HellmError], way_out: str
) -> pd.DataFrame:
    """Read a Parquet table.

    Parameters
    ----------
    path : Path
    columns : sequence of str, optional
        Those to read; all by default.
    error, way_out : type, str
        What is raised, and the end of its sentence.

    Raises
    ------
    HellmError
        If it is missing or damaged, or lacks a column.
    """
    try:
        frame: pd.DataFrame = pd.read_parquet(path, columns=columns and list(columns))
    except FileNotFoundError as cause:
        raise error(f"{path} is missing; {way_out}.") from cause
    except (OSError, ValueError, KeyError, pa.ArrowException) as cause:
        raise error(f"{path} is damaged ({reason(cause)}); {way_out}.") from cause
    return frame
