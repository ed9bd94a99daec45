from __future__ import annotations

import os
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


def test_a_table_comes_back_as_it_was_written(table: Path) -> None:
    found = read_parquet(table, None, RunError, "do it again")
    pd.testing.assert_frame_equal(found, pd.read_parquet(table))


def test_any_damage_ends_in_a_sentence_or_in_a_table(table: Path) -> None:
    content = table.read_bytes()
    told = 0
    places = range(0, len(content), 3)
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 0x55
        table.write_bytes(changed)
        try:
            read_parquet(table, None, RunError, "do it again")
        except RunError as error:
            assert str(error).startswith(str(table))  # noqa: PT017
            told += 1
    assert told > len(places) // 4


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(RunError, match="is damaged"):
            read_parquet(tmp_path / name, None, RunError, "do it again")
