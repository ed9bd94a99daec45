from __future__ import annotations

from pathlib import Path

import pytest

from recbole_hellm.data.preparation.column_roles import TABLE, all_named, recognise, role_column
from recbole_hellm.data.preparation.datasets.amazon2014 import Amazon2014
from recbole_hellm.data.preparation.datasets.amazon2018 import Amazon2018
from recbole_hellm.data.preparation.datasets.amazon2023 import Amazon2023
from recbole_hellm.data.preparation.delimited_text import TextFormat
from recbole_hellm.data.preparation.table_files import TableFile
from recbole_hellm.errors import DataError

ROLES = ("user", "item", "time")


def file_with(folder: Path, line: str, text_format: TextFormat | None = None) -> TableFile:
    (folder / "f").write_text(f"{line}\n{line}\n")
    return TableFile(folder / "f", text_format or TextFormat())


@pytest.mark.parametrize(
    "header",
    [
        "user_id,item_id,timestamp",
        "User,Item,Time",
        "userId,movieId,rating,timestamp",
        "Customer ID,Product ID,Date,Time",
        "uid,iid,ts",
        "visitorid,itemid,event,timestamp",
        "user,item,time,1,2,3,4,5,6",
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, header: str) -> None:
    file, names = file_with(tmp_path, header), header.split(",")
    time = "time" if "time" in names else names[-1]
    assert [role_column(file, role) for role in ROLES] == [names[0], names[1], time]


def test_columns_that_are_not_found_are_told(tmp_path: Path) -> None:
    file = file_with(tmp_path, "a,b,c")
    assert role_column(file, "time", "b") == "b"
    with pytest.raises(DataError) as caught:
        role_column(file, "user")
    assert str(caught.value) == (
        f"{file.path} has no column known to hold users (it has a, b, c); name it with "
        "--user_column, or all columns with --columns if line 1 is data."
    )
    with pytest.raises(DataError, match=r"has no column 'x' \(it has a, b, c\); .*--time_column"):
        role_column(file, "time", "x")


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("1\t101\t3\t880000100", ("1", "101", "880000100")),
        ("A1B,B00X,3.0,1400000000", ("A1B", "B00X", "1400000000")),
        ("ann,tea,2014-07-22T10:00:00Z", ("ann", "tea", "2014-07-22T10:00:00Z")),
        ("ann|tea|-1.5e9", ("ann", "tea", "-1.5e9")),
        ("ann,tea,27.06.2023", ("ann", "tea", "27.06.2023")),
        ("ann;tea;06/27/2023", ("ann", "tea", "06/27/2023")),
        ('"7","tea","1400000000"', ("7", "tea", "1400000000")),
    ],
)
def test_a_row_of_data_is_never_taken_for_names(
    tmp_path: Path, line: str, columns: tuple[str, str, str]
) -> None:
    file = file_with(tmp_path, line)
    example = "user, item, rating, time" if len(file.columns) > 3 else "user, item, time"
    with pytest.raises(DataError, match=rf"f, line 1 looks like data.*--columns='\[{example}\]'"):
        [role_column(file, role, column) for role, column in zip(ROLES, columns, strict=True)]
    for column in (None, columns[0], columns[1], "user"):  # nor where another one is named
        with pytest.raises(DataError, match="line 1 looks like data"):
            role_column(file, "user", column)


def test_item_tables_have_an_option_of_their_own(tmp_path: Path) -> None:
    file = file_with(tmp_path, "7,1995-01-01,Hat")
    with pytest.raises(DataError, match=r"--item_columns='\[item, title, genres\]'"):
        role_column(file, "item", None, "item_columns")


def test_numbered_and_given_columns_are_names(tmp_path: Path) -> None:
    file = file_with(tmp_path, "0,1,2")  # as pandas writes columns without names
    assert [role_column(file, role, str(place)) for place, role in enumerate(ROLES)] == list("012")
    file = file_with(tmp_path, "7,8,9", TextFormat(("user", "item", "3")))
    assert role_column(file, "user") == "user"
    assert role_column(file, "time", "3") == "3"


def test_columns_known_for_a_role() -> None:
    names = ["Image URL", "images", "imageURLHighRes"]
    assert all_named(names, "image") == ["images", "imageURLHighRes", "Image URL"]


def test_layouts_by_column_names() -> None:
    layouts = [TABLE, Amazon2014.layout, Amazon2018.layout, Amazon2023.layout]
    for columns, name in (
        (["user_id", "item_id", "timestamp"], "table"),
        (["user_id", "parent_asin"], "table"),
        (["timestamp", "user_id", "parent_asin", "rating"], "amazon2023"),
        (["reviewerID", "asin", "unixReviewTime", "helpful"], "amazon2014"),
        (["reviewerID", "asin", "unixReviewTime", "verified"], "amazon2018"),
    ):
        assert recognise(columns, layouts).name == name
        assert recognise(columns, layouts[::-1]).name == name
