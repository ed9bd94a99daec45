from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from recbole_hellm.data.preparation.table_cells import ids
from recbole_hellm.data.preparation.table_files import Table, TableFile
from recbole_hellm.data.preparation.table_times import times, unit_of
from recbole_hellm.errors import ConfigError, DataError


def csv_table(folder: Path, *rows: str) -> Table:
    path = folder / "f.csv"
    path.write_text("\n".join(["user,item,time", *rows, ""]))
    return TableFile(path).read(lambda _: True)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["3", "1"], [3, 1]),
        (["1.5", "1"], [1.5, 1.0]),
        (["1452647382001", "0"], [1452647382001, 0]),
        (["2014-07-23", "1970-01-02"], [1406073600, 86400]),
        (["2014-07-23T00:00:01Z", "2014-07-23T02:00:00+02:00"], [1406073601, 1406073600]),
        (["2023-06-27 10:00+02:00", "2023-06-27"], [1687852800, 1687824000]),
        (["2014-07-23 00:00:00.5", "1970-01-01"], [1406073600500000, 0]),
    ],
)
def test_times(tmp_path: Path, cells: list[str], expected: list[float]) -> None:
    table = csv_table(tmp_path, *(f"u,i,{cell}" for cell in cells))
    assert times(table, "time").tolist() == expected
    frame = pd.DataFrame({"user": 1, "item": 2.0, "time": cells})
    if "-" in cells[0]:
        frame["time"] = pd.to_datetime(frame["time"], format="ISO8601", utc=True)
        frame.to_parquet(tmp_path / "f.parquet")
        table = TableFile(tmp_path / "f.parquet").read(lambda _: True)
        assert times(table, "time").tolist() == expected
        assert ids(table, "user") == ["1", "1"]
        assert ids(table, "item") == ["2", "2"]


def test_dates_that_could_mean_two_days_are_refused(tmp_path: Path) -> None:
    table = csv_table(tmp_path, "u,i,2014-07-23", "u,i,01/02/2014")
    with pytest.raises(DataError, match=r"line 3: the time is '01/02/2014', which is not a date"):
        times(table, "time")
    assert times(table.without(table.frame.index == 0), "time", "%d/%m/%Y").tolist() == [1391212800]


@pytest.mark.parametrize(
    ("time_format", "cells", "expected"),
    [
        ("%d.%m.%Y", ["27.06.2023", " 1.7.2023"], [1687824000, 1688169600]),
        ("%m/%d/%Y", ["06/27/2023"], [1687824000]),
        ("%Y%m%d", ["20230627"], [1687824000]),
        ("%d.%m.%Y %H:%M:%S.%f", ["27.06.2023 00:00:00.5"], [1687824000500000]),
        ("%Y-%m-%dT%H:%M%z", ["2023-06-27T02:00+0200"], [1687824000]),
    ],
)
def test_a_format_can_be_given(
    tmp_path: Path, time_format: str, cells: list[str], expected: list[int]
) -> None:
    table = csv_table(tmp_path, *(f"u,i,{cell}" for cell in cells))
    assert times(table, "time", time_format).tolist() == expected


def test_formats_that_do_not_fit_are_told(tmp_path: Path) -> None:
    table = csv_table(tmp_path, "u,i,27.06.2023", "u,i,06/27/2023")
    with pytest.raises(DataError, match=r"line 2: .* is '27.06.2023', .*--time_format=%d.%m.%Y"):
        times(table, "time")
    with pytest.raises(
        DataError, match=r"line 3: the time is '06/27/2023', which is not a date as"
    ):
        times(table, "time", "%d.%m.%Y")
    for wrong in ("DD.MM.YYYY", "mixed", "%Q", "ISO8601", "%d.%d.%Y"):
        with pytest.raises(ConfigError, match="is not a format of dates"):
            times(table, "time", wrong)


def test_units_of_unix_times() -> None:
    moments = (0, 99_999_999, 1_400_000_000, 1.4e12, 1.4e15, 1.4e18, -5)
    units = [None, None, "seconds", "milliseconds", "microseconds", None, None]
    assert [unit_of(moment) for moment in moments] == units
