from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from recbole_hellm.errors import RunError
from recbole_hellm.storage.tables import read_parquet


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.parquet"
    pd.DataFrame({"user": ["a", "b"], "place": [1, 2]}).to_parquet(path, index=False)
    return path


def test_columns_are_read(table: Path) -> None:
    assert read_parquet(table, ["place"], RunError, "do it again").to_dict("list") == {
        "place": [1, 2]
    }
    assert list(read_parquet(table, None, RunError, "do it again")) == ["user", "place"]


@pytest.mark.parametrize("left", [0, 3, 4, 40, -4, -9, -60])
def test_a_truncated_table_is_told(table: Path, left: int) -> None:
    table.write_bytes(table.read_bytes()[:left])
    with pytest.raises(RunError, match=r"table.parquet is damaged \(.*\); do it again\.$"):
        read_parquet(table, None, RunError, "do it again")


def test_a_missing_table_or_column_is_told(table: Path) -> None:
    with pytest.raises(RunError, match=r"table.parquet is damaged .*item"):
        read_parquet(table, ["item"], RunError, "do it again")
    with pytest.raises(RunError, match=r"none.parquet is missing; do it again\.$"):
        read_parquet(table.with_name("none.parquet"), None, RunError, "do it again")
