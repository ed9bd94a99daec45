from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.data.preparation.table_cells import category_path, ids, picture, text, times
from recbole_hellm.data.preparation.table_files import Table, TableFile
from recbole_hellm.errors import DataError


def csv_table(folder: Path, *rows: str) -> Table:
    path = folder / "f.csv"
    path.write_text("\n".join(["user,item,time", *rows, ""]))
    return TableFile(path).read(lambda _: True)


def object_table(folder: Path, *records: dict[str, Any]) -> Table:
    path = folder / "f.json"
    path.write_text("\n".join(map(json.dumps, records)))
    return TableFile(path).read(lambda _: True, progress=False)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["3", "1"], [3, 1]),
        (["1.5", "1"], [1.5, 1.0]),
        (["1452647382001", "0"], [1452647382001, 0]),
        (["2014-07-23", "1970-01-02"], [1406073600, 86400]),
        (["2014-07-23T00:00:01Z", "2014-07-23T02:00:00+02:00"], [1406073601, 1406073600]),
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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",i,1", "line 4: the user is empty, and an id must be"),
        ("u, ,1", "line 4: the item is ' ', and an id must be"),
        ("u,i,", "line 4: the time is empty"),
        ("u,i", "line 4: the time is empty"),
        ("u,i,yesterday", "line 4: the time is 'yesterday', which is not a number below 2"),
        ("u,i,inf", "line 4: the time is 'inf', which is not a number"),
        ("u,i,nan", "line 4: the time is 'nan', which is not a number"),
        ("u,i,1406073600000000000", "line 4: the time is '1406073600000000000', which is not"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    table = csv_table(tmp_path, "u,i,1", "", row, "u,i,2")
    with pytest.raises(DataError, match=message) as caught:
        ids(table, "user"), ids(table, "item"), times(table, "time")
    assert str(caught.value).startswith(str(table.file.path))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"user": None}, "line 2: the user is empty"),
        ({"user": 1.5}, r"line 2: the user is 1\.5"),
        ({"user": True}, "line 2: the user is True"),
        ({"user": ["x"]}, "line 2: the user is"),
        ({"item": "a\tb"}, "line 2: the item is 'a"),
        ({"item": "\ud800"}, "line 2: the item is"),
        ({"time": True}, "line 2: the time is True"),
        ({"time": [1]}, r"line 2: the time is \[1\]"),
        ({"time": 2**70}, "line 2: the time is 118"),
    ],
)
def test_malformed_objects_are_named(tmp_path: Path, record: dict, message: str) -> None:
    good = {"user": 3, "item": "i", "time": 1}
    table = object_table(tmp_path, good, good | record)
    with pytest.raises(DataError, match=message):
        ids(table, "user"), ids(table, "item"), times(table, "time")


def test_dates_that_could_mean_two_days_are_refused(tmp_path: Path) -> None:
    table = csv_table(tmp_path, "u,i,2014-07-23", "u,i,01/02/2014")
    with pytest.raises(DataError, match=r"line 3: the time is '01/02/2014', which is not a date"):
        times(table, "time")


@pytest.mark.parametrize(
    ("cell", "path"),
    [
        ("Action|Sci-Fi", ["Action", "Sci-Fi"]),
        ("Home > Kitchen & Bar > Knives", ["Home", "Kitchen & Bar", "Knives"]),
        ("Home; Garden", ["Home", "Garden"]),
        ("Clothing, Shoes & Jewelry", ["Clothing, Shoes & Jewelry"]),
        ('["a", "b"]', ["a", "b"]),
        ("[['a', 'b'], ['c']]", ["a", "b"]),
        ("[broken", ["[broken"]),
        ("", []),
        (None, []),
        ([["a", " ", "b"], ["c"]], ["a", "b"]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        (7, ["7"]),
    ],
)
def test_categories(cell: Any, path: list[str]) -> None:
    assert category_path(cell) == path


def test_texts() -> None:
    assert text(["One <b>two", "three \n"]) == "One <b>two three"
    assert text("One <b\n>two", tags_removed=True) == "One two"
    assert text("x\ud800") == "x?"
    assert [text(cell) for cell in (None, float("nan"), 1.5)] == ["", "", "1.5"]
    assert category_path(["<i>a</i>", "<br>"], tags_removed=True) == ["a"]
    for read_cell in (text, category_path):
        with pytest.raises(TypeError, match="a dict, not a text"):
            read_cell([{"en": "x"}])


def test_pictures() -> None:
    sizes = {"thumb": "t", "large": "l", "hi_res": None}
    assert picture([{}, sizes, "z"]) == "l"
    assert picture({"hi_res": np.array([None, "h"], dtype=object), "large": ["l"]}) == "h"
    assert picture("a.jpg") == "a.jpg"
    assert picture([None, ""]) == ""
