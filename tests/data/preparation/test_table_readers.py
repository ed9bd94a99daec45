from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.data.preparation.column_roles import TABLE, Layout
from recbole_hellm.data.preparation.datasets.amazon2014 import Amazon2014
from recbole_hellm.data.preparation.datasets.amazon2018 import Amazon2018
from recbole_hellm.data.preparation.datasets.amazon2023 import Amazon2023
from recbole_hellm.data.preparation.delimited_text import TextFormat
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.data.preparation.table_files import TableFile
from recbole_hellm.data.preparation.table_readers import read_interactions, read_item_table
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


def interactions(path: Path, layout: Layout = TABLE, **columns: str) -> dict[str, list]:
    layout = dataclasses.replace(layout, **columns)
    return read_interactions(TableFile(path), layout, progress=False).to_dict("list")


def items_of(path: Path, wanted: set[str], layout: Layout = TABLE) -> pd.DataFrame:
    return read_item_table(TableFile(path), wanted, layout, progress=False)


def test_amazon_2018(tmp_path: Path) -> None:
    path = write(tmp_path / "r", [REVIEW, {**REVIEW, "asin": "B2"}])
    assert interactions(path, Amazon2018.layout) == {
        "user_id": ["A1", "A1"],
        "item_id": ["B1", "B2"],
        "timestamp": [1472688000, 1472688000],
    }
    for suffix in ("json", "parquet"):
        meta = write(tmp_path / f"m.{suffix}", META_2018)
        items = items_of(meta, {"B1", "B2"}, Amazon2018.layout)
        assert items.to_dict("records") == [
            {
                "item_id": "B1",
                "title": "A & B",
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
        items = items_of(path, set("ABCD"), Amazon2018.layout)
        found = ["http://x/s", "http://x/l", "", "http://x/d"][: len(records)]
        assert items["image"].tolist() == found


def test_amazon_2023(tmp_path: Path) -> None:
    lines = ["user_id,parent_asin,rating,timestamp", "U1,B1,5.0,1452647382000"]
    record = {"user_id": "U1", "parent_asin": "B1", "asin": "C", "timestamp": 1452647382000}
    for name, content in (("r.csv", lines), ("r.jsonl", [record])):
        assert interactions(write(tmp_path / name, content), Amazon2023.layout) == {
            "user_id": ["U1"],
            "item_id": ["B1"],
            "timestamp": [1452647382000],
        }
    meta = write(tmp_path / "m", META_2023)
    items = items_of(meta, {"B1", "B2"}, Amazon2023.layout)
    assert items.to_numpy().tolist() == [
        ["B1", "A game", "Sega", ["Video Games", "PC"], "It is", "http://x/l"],
        ["B2", "", "", [], "", "http://x/h"],
    ]


def test_amazon_2014(tmp_path: Path) -> None:
    line = "{'asin': 'B1', 'title': 'x<br />y', 'categories': [['a', 'b'], ['c']], 'imUrl': 'u'}"
    items = items_of(write(tmp_path / "m", [line]), {"B1"}, Amazon2014.layout)
    assert items.to_numpy().tolist() == [["B1", "xy", "", ["a", "b"], "", "u"]]


def test_columns_that_are_named_win(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", ["user_id,item_id,timestamp,who,what,when", "a,b,1,c,d,2"])
    expected = {"user_id": ["c"], "item_id": ["d"], "timestamp": [2]}
    assert interactions(path, user="who", item="what", time="when") == expected
    with pytest.raises(ConfigError, match="are three columns, not who, what, what; correct"):
        interactions(path, user="who", item="what", time="what")
    with pytest.raises(DataError, match="no column 'reviewerID'"):
        interactions(path, Amazon2018.layout)


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no interactions"):
        interactions(write(tmp_path / "f.csv", ["user,item,time"]))


def test_item_tables(tmp_path: Path) -> None:
    rows = [
        "sku,Product Name,Price,Image URL,Description",
        "7,Tea  pot,3,p/7.jpg,1 < 2 > 0",
        "8,,,,",
        "9,Unwanted,,,",
    ]
    path = write(tmp_path / "f.csv", rows)
    for column in (None, "sku", "not_here"):  # the interactions' own name need not be the items'
        items = items_of(path, {"7", "8"}, Layout("table", item=column))
        assert items.to_numpy().tolist() == [
            ["7", "Tea pot", "", [], "1 < 2 > 0", "p/7.jpg"],
            ["8", "", "", [], "", ""],
        ]
    path.write_text("\n".join([*rows, "7,Again,,,"]))
    with pytest.raises(DataError, match=r"f.csv, line 5 is a second row for item '7'; keep one"):
        items_of(path, {"7"})
    with pytest.raises(DataError, match="no column known to hold items"):
        items_of(write(tmp_path / "g.csv", ["a,b", "1,2"]), {"7"})
    path = write(tmp_path / "h", [{"item": "7", "title": "x"}, {"item": "8", "title": {"en": "y"}}])
    with pytest.raises(DataError, match="h, line 2: the title is a dict, not a text; correct it"):
        items_of(path, {"7", "8"})


def counted(path: Path, **columns: str) -> tuple[pd.DataFrame, RowCounts]:
    counts = RowCounts()
    layout = dataclasses.replace(TABLE, **columns)
    return read_interactions(TableFile(path), layout, False, counts), counts


def test_the_order_of_rows_is_the_time_where_there_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "f.csv", ["user,item,when", "b,x,3", "a,y,1", "a,x,2"])
    with caplog.at_level("WARNING"):
        frame, counts = counted(path)
    assert frame["timestamp"].tolist() == [0, 1, 2]
    note = "no column known to hold times (it has user, item, when), so the order of its rows"
    assert note in counts.notes[0]
    assert note in caplog.text
    assert counted(path, time="when")[0]["timestamp"].tolist() == [3, 1, 2]
    with pytest.raises(DataError, match="no column 'x'"):
        counted(path, time="x")


def test_rows_without_an_id_or_a_time_are_counted(tmp_path: Path) -> None:
    lines = ["user,item,time,x", "a,x,1,", ",,,", ",y,2,", "a, ,3,", "", "b,x,,", "b,z,1400000000,"]
    path = write(tmp_path / "f.csv", lines)
    frame, counts = counted(path)
    assert frame.to_dict("list") == {
        "user_id": ["a", "b"],
        "item_id": ["x", "z"],
        "timestamp": [1, 1400000000],
    }
    assert (counts.read, counts.kept) == (7, 2)
    assert counts.dropped == {
        "blank": 2,
        "without user": 1,
        "without item": 1,
        "without time": 1,
    }
    assert "f.csv, line 4: the user is empty; rows without it are left out (1)" in counts.notes[0]
    assert "f.csv, line 7: the time is empty" in counts.notes[2]
    assert counts.columns_taken == ["user", "item", "time"]
    assert counts.columns_left == ["x"]
    write(path, [*lines, "b\x1b[0m,z,1,"])
    with pytest.raises(DataError, match=r"f.csv, line 9: the user is 'b\\x1b\[0m'"):
        counted(path)


def test_a_header_alone_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"f\.csv holds no interactions"):
        counted(write(tmp_path / "f.csv", ["user,item,time"]))


def test_what_times_are_taken_for_is_said(tmp_path: Path) -> None:
    for cells, note in (
        (("1400000000", "1500000000"), "Unix seconds, from 2014-05-13 to 2017-07-14"),
        (("1400000000000", "1500000000000"), "Unix milliseconds, from 2014-05-13 to 2017-07-14"),
        (("2014-05-13", "2017-07-14"), "Unix seconds, from 2014-05-13 to 2017-07-14"),
        (("1", "20"), "the time goes from 1 to 20"),
        (("1400000000", "1500000000000"), "so some are Unix seconds and others milliseconds"),
    ):
        lines = ["user,item,time", *(f"a,{cell},{cell}" for cell in cells)]
        assert note in counted(write(tmp_path / "f.csv", lines))[1].notes[0]


@pytest.mark.parametrize(
    "lines",
    [
        ["user,item,time", "a,x,1", "user,item,time", "b,y,2"],
        ["a,x,7", "b,y,8", "a,z,9"],
        ["a,x", "b,y", "a,z"],
    ],
)
def test_a_name_is_no_value_of_its_column(tmp_path: Path, lines: list[str]) -> None:
    path = write(tmp_path / "f.csv", lines)
    user, item, *_ = lines[0].split(",")
    with pytest.raises(DataError, match=r"line 3 has '(a|user)' in the column|looks like data"):
        counted(path, user=user, item=item)
    with pytest.raises(DataError, match=r"line 3 has 'item' in .*--item_columns"):
        items_of(write(tmp_path / "i.csv", ["item,title", "a,x", "item,title"]), {"a"})


def test_scripts_in_place_of_titles_are_counted(tmp_path: Path) -> None:
    script = "var aPageStart = (new Date()).getTime();"
    path = write(
        tmp_path / "m", [{"asin": "B1", "title": script}, {"asin": "B2", "title": "&amp;"}]
    )
    counts = RowCounts()
    items = read_item_table(TableFile(path), {"B1", "B2"}, Amazon2018.layout, False, counts)
    assert items["title"].tolist() == ["", "&"]
    assert "1 texts are scripts or style sheets" in counts.notes[0]
    items = read_item_table(TableFile(path), {"B1", "B2"}, Amazon2014.layout, False)
    assert items["title"].tolist() == [script, "&amp;"]


@pytest.mark.parametrize(
    ("first", "others"),
    [("alice0,book0", ["bob1,pen1", "eve2,cup2"]), ("A3SGXH7AUH,x1", ["A1VGXH7AUG,y2"])],
)
def test_a_name_that_looks_like_the_ids_below_it_is_no_name(
    tmp_path: Path, first: str, others: list[str]
) -> None:
    path = write(tmp_path / "f.csv", [first, *others])
    user, item = first.split(",")
    with pytest.raises(DataError, match=f"line 1 has '{user}' where the rows have .*--columns"):
        counted(path, user=user, item=item)
    titled = write(tmp_path / "i.csv", ["i0,title", "i1,a", "i2,b"])
    with pytest.raises(DataError, match=r"line 1 has 'i0' where .*--item_columns"):
        read_item_table(TableFile(titled), {"i1"}, Layout("table", items_item="i0"), False)


def test_a_header_without_known_names_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", ["ann,tea", "bob,pen", "eve,cup"])
    _, counts = counted(path, user="ann", item="tea")
    assert "line 1 (ann, tea) is taken for names of columns" in counts.notes[0]


@pytest.mark.parametrize(
    ("ids", "doubt"),
    [
        (["1.23457E+17", "2"], "1 of the ids (such as 1.23457E+17) may have been rounded"),
        (["null", "NaN", "a"], "2 of the ids (such as null, NaN) may stand for a missing one"),
        (["1", "1.0", "2.0"], "1 of the ids (such as 1.0) differ from those without a point"),
    ],
)
def test_doubtful_ids_are_told(tmp_path: Path, ids: list[str], doubt: str) -> None:
    lines = ["user,item,time", *(f"{token},x,{time}" for time, token in enumerate(ids))]
    frame, counts = counted(write(tmp_path / "f.csv", lines))
    assert frame["user_id"].tolist() == ids
    assert doubt in counts.notes[0]


def test_times_of_which_some_are_no_unix_times_are_told(tmp_path: Path) -> None:
    lines = ["user,item,time", "a,x,0", "a,y,1400000000"]
    _, counts = counted(write(tmp_path / "f.csv", lines))
    assert "some are Unix seconds of these decades and others are not" in counts.notes[0]


def test_columns_that_the_first_object_lacks_are_known(tmp_path: Path) -> None:
    rows = [{"user": "a", "item": "x"}, {"user": "a", "item": "y", "time": 2}]
    frame, counts = counted(write(tmp_path / "f", rows))
    assert frame["timestamp"].tolist() == [2]
    assert counts.dropped == {"without time": 1}


def test_a_header_is_no_row_where_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "f", ["userId,Item", "a,x", "b,y"])
    with pytest.raises(DataError, match=r"f, line 1 looks like names of columns \(userId, Item\)"):
        read_interactions(TableFile(path, TextFormat(("user", "item"))), progress=False)
    titled = TableFile(
        write(tmp_path / "i", ["asin,title", "x,Tea"]), TextFormat(("item", "title"))
    )
    with pytest.raises(DataError, match="i, line 1 looks like names of columns"):
        read_item_table(titled, {"x"}, progress=False)
    path = write(tmp_path / "f", ["a,item", "b,y"])
    frame = read_interactions(TableFile(path, TextFormat(("user", "item"))), progress=False)
    assert len(frame) == 2
