from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.data.preparation.layouts import (
    Columns,
    read_interactions,
    read_item_table,
    recognise,
)
from recbole_hellm.errors import ConfigError, DataError

REVIEW = {
    "overall": 5.0,
    "verified": True,
    "reviewTime": "09 1, 2016",
    "reviewerID": "A1",
    "asin": "B1",
    "unixReviewTime": 1472688000,
}
META_2018 = [
    {
        "category": ["Games", "PC"],
        "description": ["One <b>two", "three"],
        "title": "A &amp; B",
        "brand": "Sega",
        "imageURL": ["http://x/s.jpg"],
        "imageURLHighRes": ["http://x/l.jpg"],
        "asin": "B1",
        "also_buy": ["B2"],
    },
    {"category": [], "description": [], "title": "Second", "brand": "", "asin": "B2"},
    {"asin": "B1", "title": "another line for B1"},
]
META_2023 = [
    {
        "main_category": "Games",
        "title": "A game",
        "features": ["x"],
        "description": ["It", "is"],
        "images": [
            {"thumb": "http://x/t", "large": "http://x/l", "hi_res": None},
            {"large": "http://x/2"},
        ],
        "store": "Sega",
        "categories": ["Video Games", "PC"],
        "parent_asin": "B1",
    },
    {
        "title": None,
        "images": {"hi_res": [None, "http://x/h"], "large": ["http://x/l"]},
        "store": None,
        "categories": [],
        "description": [],
        "parent_asin": "B2",
    },
]


def write(path: Path, records: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(records).to_parquet(path)
    else:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
        path.write_text("\n".join(lines) + "\n")
    return path


def interactions(path: Path, layout: str = "auto", **columns: str) -> dict[str, list]:
    frame, _ = read_interactions(path, layout, Columns(**columns), progress=False)
    return frame.to_dict("list")


def test_amazon_2018(tmp_path: Path) -> None:
    path = write(tmp_path / "r", [REVIEW, {**REVIEW, "asin": "B2"}])
    frame, layout = read_interactions(path, progress=False)
    assert layout == "amazon2018"
    assert frame.to_dict("list") == {
        "user_id": ["A1", "A1"],
        "item_id": ["B1", "B2"],
        "timestamp": [1472688000, 1472688000],
    }
    for suffix in ("json", "parquet"):
        meta = write(tmp_path / f"m.{suffix}", META_2018)
        items = read_item_table(meta, {"B1", "B2"}, layout, progress=False)
        assert items.to_dict("records") == [
            {
                "item_id": "B1",
                "title": "A &amp; B",
                "brand": "Sega",
                "categories": ["Games", "PC"],
                "description": "One two three",
                "image": "http://x/l.jpg",
            },
            {
                "item_id": "B2",
                "title": "Second",
                "brand": "",
                "categories": [],
                "description": "",
                "image": "",
            },
        ]


def test_a_picture_is_looked_for_in_every_column(tmp_path: Path) -> None:
    lines: list[Any] = [
        {"asin": "A", "imageURL": ["http://x/s", "http://x/t"], "imageURLHighRes": []},
        {"asin": "B", "imageURL": ["http://x/s"], "imageURLHighRes": ["", "http://x/l"]},
        {"asin": "C", "imageURL": []},
        {"asin": "D", "imageURL": "http://x/d"},
    ]
    for name in ("m.json", "m.parquet"):
        records = lines if name == "m.json" else lines[:3]
        path = write(tmp_path / name, records)
        items = read_item_table(path, set("ABCD"), "amazon2018", progress=False)
        found = ["http://x/s", "http://x/l", "", "http://x/d"][: len(records)]
        assert items["image"].tolist() == found


def test_amazon_2023(tmp_path: Path) -> None:
    lines = ["user_id,parent_asin,rating,timestamp", "U1,B1,5.0,1452647382000"]
    record = {"user_id": "U1", "parent_asin": "B1", "asin": "C", "timestamp": 1452647382000}
    for name, content in (("r.csv", lines), ("r.jsonl", [record])):
        frame, layout = read_interactions(write(tmp_path / name, content), progress=False)
        assert layout == "amazon2023"
        assert frame.to_numpy().tolist() == [["U1", "B1", 1452647382000]]
    meta = write(tmp_path / "m", META_2023)
    items = read_item_table(meta, {"B1", "B2"}, layout, progress=False)
    assert items.to_numpy().tolist() == [
        ["B1", "A game", "Sega", ["Video Games", "PC"], "It is", "http://x/l"],
        ["B2", "", "", [], "", "http://x/h"],
    ]


def test_amazon_2014_as_files_of_ones_own(tmp_path: Path) -> None:
    review = {key: REVIEW[key] for key in ("reviewerID", "asin", "unixReviewTime")}
    path = write(tmp_path / "r", [{**review, "helpful": [0, 0]}])
    _, layout = read_interactions(path, progress=False)
    assert layout == "amazon2014"
    line = "{'asin': 'B1', 'title': 'x<br />y', 'categories': [['a', 'b'], ['c']], 'imUrl': 'u'}"
    items = read_item_table(write(tmp_path / "m", [line]), {"B1"}, layout, progress=False)
    assert items.to_numpy().tolist() == [["B1", "xy", "", ["a", "b"], "", "u"]]


def test_layouts_by_column_names() -> None:
    assert recognise(["user_id", "item_id", "timestamp"]) == "table"
    assert recognise(["user_id", "parent_asin"]) == "table"
    assert recognise(["timestamp", "user_id", "parent_asin", "rating"]) == "amazon2023"


@pytest.mark.parametrize(
    "header",
    [
        "user_id,item_id,timestamp",
        "User,Item,Time",
        "userId,movieId,rating,timestamp",
        "Customer ID,Product ID,Date,Time",
        "uid,iid,ts",
        "visitorid,itemid,event,timestamp",
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, header: str) -> None:
    names = header.split(",")
    wanted = {"user": 0, "item": 1, "time": len(names) - 1}
    cells = ["0"] * len(names)
    for role, place in wanted.items():
        cells[place] = {"user": "u", "item": "i", "time": "7"}[role]
    found = interactions(write(tmp_path / "f.csv", [header, ",".join(cells)]))
    assert found == {"user_id": ["u"], "item_id": ["i"], "timestamp": [7]}


def test_columns_that_are_named_win(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", ["user_id,item_id,timestamp,who,what,when", "a,b,1,c,d,2"])
    found = interactions(path, user="who", item="what", time="when")
    assert found == {"user_id": ["c"], "item_id": ["d"], "timestamp": [2]}
    path = write(tmp_path / "g.csv", ["a,b,c", "1,2,3"])
    with pytest.raises(
        DataError,
        match=r"has no column known to hold users \(it has a, b, c\); "
        r"name it with --user_column",
    ):
        interactions(path)
    with pytest.raises(DataError, match=r"has no column 'x' \(it has a, b, c\); .*--time_column"):
        interactions(path, user="a", item="b", time="x")
    with pytest.raises(ConfigError, match="are three columns, and a, b, b are given"):
        interactions(path, user="a", item="b", time="b")
    with pytest.raises(DataError, match="no column 'reviewerID'"):
        interactions(path, "amazon2018")


@pytest.mark.parametrize(
    ("cells", "times"),
    [
        (["3", "1"], [3, 1]),
        (["1.5", "1"], [1.5, 1.0]),
        (["1452647382001", "0"], [1452647382001, 0]),
        (["2014-07-23", "1970-01-02"], [1406073600, 86400]),
        (["2014-07-23T00:00:01Z", "2014-07-23T02:00:00+02:00"], [1406073601, 1406073600]),
        (["2014-07-23 00:00:00.5", "1970-01-01"], [1406073600500000, 0]),
    ],
)
def test_times(tmp_path: Path, cells: list[str], times: list[float]) -> None:
    rows = [f"u,i,{cell}" for cell in cells]
    path = write(tmp_path / "f.csv", ["user,item,time", *rows])
    assert interactions(path)["timestamp"] == times
    frame = pd.DataFrame({"user": 1, "item": 2.0, "time": cells})
    if "-" in cells[0]:
        frame["time"] = pd.to_datetime(frame["time"], format="ISO8601", utc=True)
        frame.to_parquet(tmp_path / "f.parquet")
        found = interactions(tmp_path / "f.parquet")
        assert found == {"user_id": ["1"] * 2, "item_id": ["2"] * 2, "timestamp": times}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",i,1", "line 4: the user is empty, and an id must be"),
        ("u, ,1", "line 4: the item is ' ', and an id must be"),
        ("u,i,", "line 4: the time is empty"),
        ("u,i", "line 4: the time is empty"),
        ("u,i,yesterday", "line 4: the time is 'yesterday', which is no number below 2"),
        ("u,i,inf", "line 4: the time is 'inf', which is no number"),
        ("u,i,nan", "line 4: the time is 'nan', which is no number"),
        ("u,i,1406073600000000000", "line 4: the time is '1406073600000000000', which is no"),
        ("u,i,1,2", "Expected 3 fields in line 4, saw 4"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path / "f.csv", ["user,item,time", "u,i,1", "", row, "u,i,2"])
    with pytest.raises(DataError, match=message) as caught:
        interactions(path)
    assert str(caught.value).startswith(str(path))


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
    path = write(tmp_path / "f", [good, good | record])
    with pytest.raises(DataError, match=message):
        interactions(path)


def test_dates_that_could_mean_two_days_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", ["user,item,date", "u,i,2014-07-23", "u,i,01/02/2014"])
    with pytest.raises(DataError, match=r"line 3: the date is '01/02/2014', which is no date such"):
        interactions(path)


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no interactions"):
        interactions(write(tmp_path / "f.csv", ["user,item,time"]))


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
    ],
)
def test_categories(tmp_path: Path, cell: str, path: list[str]) -> None:
    pd.DataFrame({"item": ["i"], "Genres": [cell]}).to_csv(tmp_path / "f.csv", index=False)
    items = read_item_table(tmp_path / "f.csv", {"i"}, progress=False)
    assert items["categories"].tolist() == [path]


def test_item_tables(tmp_path: Path) -> None:
    rows = [
        "sku,Product Name,Price,Image URL,Description",
        "7,Tea  pot,3,p/7.jpg,1 < 2 > 0",
        "8,,,,",
        "9,Unwanted,,,",
    ]
    path = write(tmp_path / "f.csv", rows)
    for column in (None, "sku", "not_here"):  # the interactions' own name need not be the items'
        items = read_item_table(path, {"7", "8"}, item_column=column, progress=False)
        assert items.to_numpy().tolist() == [
            ["7", "Tea pot", "", [], "1 < 2 > 0", "p/7.jpg"],
            ["8", "", "", [], "", ""],
        ]
    path.write_text("\n".join([*rows, "7,Again,,,"]))
    with pytest.raises(DataError, match=r"f.csv, line 5 is a second row for item '7'; keep one"):
        read_item_table(path, {"7"}, progress=False)
    with pytest.raises(DataError, match="no column known to hold items"):
        read_item_table(write(tmp_path / "g.csv", ["a,b", "1,2"]), {"7"}, progress=False)
    path = write(tmp_path / "h", [{"item": "7", "title": "x"}, {"item": "8", "title": {"en": "y"}}])
    with pytest.raises(DataError, match="h, line 2: the title is a dict and no text"):
        read_item_table(path, {"7", "8"}, progress=False)
