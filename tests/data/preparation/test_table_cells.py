from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.data.preparation.table_cells import (
    Cleaning,
    category_path,
    ids,
    misread,
    picture,
    text,
)
from recbole_hellm.data.preparation.table_files import Table, TableFile
from recbole_hellm.data.preparation.table_times import times
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
    assert text("One <b\n>two", Cleaning(tags_removed=True)) == "One two"
    assert text("x\ud800") == "x?"
    assert [text(cell) for cell in (None, float("nan"), 1.5)] == ["", "", "1.5"]
    assert category_path(["<i>a</i>", "<br>"], Cleaning(tags_removed=True)) == ["a"]
    for read_cell in (text, category_path):
        with pytest.raises(TypeError, match="a dict, not a text"):
            read_cell([{"en": "x"}])


def test_pictures() -> None:
    sizes = {"thumb": "t", "large": "l", "hi_res": None}
    assert picture([{}, sizes, "z"]) == "l"
    assert picture({"hi_res": np.array([None, "h"], dtype=object), "large": ["l"]}) == "h"
    assert picture("a.jpg") == "a.jpg"
    assert picture([None, ""]) == ""


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("Nice &#39;n&#39; good &amp; cheap", "Nice 'n' good & cheap"),
        ("A &amp;amp; B&nbsp;&quot;C&quot;", 'A & B "C"'),
        ("R&D, M&Ms & &copy", "R&D, M&Ms & &copy"),
        ("&notAnEntity; &eacute; &#x27;", "&notAnEntity; é '"),
        ("1 &lt; 2 <b>and</b> 3 &gt; 2", "1 < 2 and 3 > 2"),
        ("Learn JavaScript: functions {and} objects", "Learn JavaScript: functions {and} objects"),
        ("var aPageStart = (new Date()).getTime(); var ue_t0=1", ""),
        ("<script>x</script>Lamp", ""),
        (".a-box { color: red; }", ""),
        ("if (window.ue) { f(); }", "if (window.ue) { f(); }"),
        ("window.ue = 1;", ""),
        ("(function(a, b) { return a; })", ""),
    ],
)
def test_rests_of_pages_are_no_texts(written: str, clean: str) -> None:
    cleaning = Cleaning(tags_removed=True, entities_resolved=True)
    assert text(written, cleaning) == clean
    assert cleaning.scripts == (not clean)


@pytest.mark.parametrize("number", [1e19, 2.0**53, 10**400, 1e400])
def test_ids_that_are_not_exact_are_refused(tmp_path: Path, number: float) -> None:
    table = object_table(tmp_path, {"user": 2**70}, {"user": number})
    if isinstance(number, int):
        assert ids(table, "user") == [str(2**70), str(number)]
        return
    with pytest.raises(DataError, match="line 2: the user is"):
        ids(table, "user")


def test_whole_numbers_that_a_type_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    for kind, number in ((np.float32, 2**24), (np.float16, 2**11)):
        pd.DataFrame({"a": np.array([number - 1], kind)}).to_parquet(tmp_path / "f")
        column = TableFile(tmp_path / "f").read("a".__eq__)
        if kind is np.float32:
            assert ids(column, "a") == [str(number - 1)]
        pd.DataFrame({"a": np.array([number], kind)}).to_parquet(tmp_path / "f")
        with pytest.raises(DataError, match="a float that may stand for several"):
            ids(TableFile(tmp_path / "f").read("a".__eq__), "a")


def test_utf8_read_in_another_encoding_is_seen() -> None:
    assert misread(["tea", "CafÃ©"], "latin-1") == "CafÃ©"
    assert misread(["CafÃ©", "Café"], "latin-1") is None
    assert misread(["CafÃ©"], "utf-8") is None
    assert misread(["tea"], "latin-1") is None
