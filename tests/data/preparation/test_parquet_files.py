from __future__ import annotations

import datetime
import decimal
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_hellm.data.preparation.parquet_files import parquet_columns, read_parquet
from recbole_hellm.errors import DataError


def write(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def read(path: Path, **columns: pa.Array) -> dict:
    return read_parquet(write(path, **columns), list(columns)).to_dict("list")


def test_values_of_other_types_are_plain(tmp_path: Path) -> None:
    whole = [decimal.Decimal(12345678901234567), None, decimal.Decimal(0)]
    table = read(
        tmp_path / "f",
        whole=pa.array(whole, pa.decimal128(20, 0)),
        part=pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00"), None]),
        words=pa.array(["x", "y", "x"]).dictionary_encode(),
        large=pa.array(["a", None, "b"], pa.large_string()),
        raw=pa.array([b"a", "é".encode(), None], pa.binary()),
        nested=pa.array([["a"], None, []]),
    )
    assert table["whole"] == [12345678901234567, None, 0]
    assert table["part"] == [1.5, 2, None]
    assert type(table["part"][1]) is int
    assert table["words"] == ["x", "y", "x"]
    assert table["raw"][:2] == ["a", "é"]
    assert [list(cell) for cell in table["nested"] if cell is not None] == [["a"], []]


def test_packed_files_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "f", a=pa.array([1]))
    packed = tmp_path / "f.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_parquet(packed, parquet_columns(packed))["a"].tolist() == [1]


def test_types_without_a_plain_value_are_told(tmp_path: Path) -> None:
    for column, kind in (
        (pa.array([datetime.timedelta(1)], pa.duration("us")), r"duration\[us\]"),
        (pa.array([datetime.time(1)]), "time64"),
    ):
        with pytest.raises(DataError, match=rf"the column 'a' has the type {kind}.*int64"):
            read(tmp_path / "f", a=column)
    with pytest.raises(DataError, match="the column 'a' of type binary cannot be read"):
        read(tmp_path / "f", a=pa.array([b"\xff"]))
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    pq.write_table(table, tmp_path / "f")
    with pytest.raises(DataError, match="has two columns 'a'"):
        parquet_columns(tmp_path / "f")


def test_damaged_files_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "f", a=pa.array([*map(str, range(5000))]))
    content = path.read_bytes()
    told = []
    for start in range(0, len(content), 997):
        damaged = bytearray(content)
        damaged[start : start + 40] = b"\xff" * len(damaged[start : start + 40])
        path.write_bytes(bytes(damaged))
        try:
            read_parquet(path, parquet_columns(path))
        except DataError as error:
            told.append(str(error))
    assert told
    assert all(text.startswith(f"{path}: ") and "\n" not in text for text in told)


def test_whole_numbers_stay_exact_beside_missing_ones(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([None, 2**62 + 1], pa.int64())}), tmp_path / "f")
    assert read_parquet(tmp_path / "f", ["a"])["a"].tolist() == [None, 2**62 + 1]
