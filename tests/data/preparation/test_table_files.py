from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from recbole_hellm.data.preparation.delimited_text import TextFormat
from recbole_hellm.data.preparation.table_files import TableFile, keeper
from recbole_hellm.errors import DataError

FRAME = pd.DataFrame({"user": ["a", "b"], "item": ["007", "8"], "extra": ["x", None]})


def write(path: Path, content: str | bytes, packed: bool) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def named(*names: str):
    return set(names).__contains__


@pytest.mark.parametrize("packed", [False, True])
def test_delimited_text(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "data.json", "user:token,item:token,extra\na,007,x\n\nb,8,\n", packed)
    assert TableFile(path).columns == ("user", "item", "extra")
    table = TableFile(path).read(named("item", "user"))
    assert table.columns == ("user", "item", "extra")
    assert table.frame.to_dict("list") == {"user": ["a", "b"], "item": ["007", "8"]}
    assert [table.where(row) for row in (0, 1)] == [f"{path}, line 2", f"{path}, line 4"]
    # Columns or a separator that are given make any file delimited text.
    path = write(tmp_path / "odd", "{a}::[b]\n", packed)
    table = TableFile(path, TextFormat(("x", "y"), "::")).read(named("x", "y"))
    assert table.frame.to_numpy().tolist() == [["{a}", "[b]"]]


@pytest.mark.parametrize("index", [False, True])
def test_parquet(tmp_path: Path, index: bool) -> None:
    path = tmp_path / "data"
    frame = FRAME.assign(time=pd.to_datetime(["2014-07-23", "2014-07-24"]))
    (frame.set_index("user") if index else frame).to_parquet(path)
    assert set(TableFile(path).columns) == {"user", "item", "extra", "time"}
    table = TableFile(path).read(named("user", "time"))
    assert table.frame["user"].tolist() == ["a", "b"]
    assert table.frame["time"].dt.day.tolist() == [23, 24]
    assert table.where(1) == f"{path}, row 2"


@pytest.mark.parametrize("packed", [False, True])
def test_objects(tmp_path: Path, packed: bool) -> None:
    lines = ['{"user": "a", "n": 1}', "", "{'user': 'b', 'tags': ['x', None]}", '{"n": 2}']
    path = write(tmp_path / "data.csv", "\n".join(lines), packed)
    assert TableFile(path).columns == ("user", "n", "tags")
    table = TableFile(path).read(named("user", "tags"), progress=False)
    assert table.frame.to_dict("list") == {
        "user": ["a", "b", None],
        "tags": [None, ["x", None], None],
    }
    assert [table.where(row)[-6:] for row in range(3)] == ["line 1", "line 3", "line 4"]


def test_members_of_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("d/f.csv", "a,b\n1,2\n")
        archive.writestr("d/f.json", '{"a": 1}')
    path = tmp_path / "all.zip/d/f.csv"
    assert TableFile(path).read(named("b")).frame["b"].tolist() == ["2"]
    assert TableFile(path).where(0) == f"{path}, line 2"
    table = TableFile(tmp_path / "all.zip/d/f.json").read(named("a"), progress=False)
    assert table.frame["a"].tolist() == [1]
    with pytest.raises(DataError, match=r"all.zip/d/g.csv cannot be read \(all.zip has no such"):
        TableFile(tmp_path / "all.zip/d/g.csv").columns  # noqa: B018


def test_objects_in_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "f", '{"a": "é"}\n'.encode("latin-1"), False)
    table = TableFile(path, TextFormat(encoding="latin-1")).read(named("a"), progress=False)
    assert table.frame["a"].tolist() == ["é"]


def test_lines_are_left_out_only_if_they_cannot_matter(tmp_path: Path) -> None:
    keep = keeper("id", {"A", "é", "7"})
    for wanted in (
        '{"id": "A"}',
        "{'x': 1, 'id': 'A'}",
        '{"id": "\\u00e9"}',  # only a parser knows
        '{"id": 7}',
        '{"parts": [{"id": "B"}], "id": "A"}',
        '{"parts": [{"id": "B"}], "id": "\\u00e9"}',
        '{"name": "B"}',
    ):
        assert keep(wanted.encode())
    for other in ('{"id": "B"}', '{"id":"B", "x": "\\"id\\": \\"A\\""}'):
        assert json.loads(other)["id"] == "B"
        assert not keep(other.encode())
    lines = ['{"id": "B"}', '{"id": "C", "broken', '{"id": "A"}']
    path = write(tmp_path / "f", "\n".join(lines), False)
    table = TableFile(path).read(named("id"), keeper("id", {"A"}), progress=False)
    assert table.frame["id"].tolist() == ["B", "A"]  # the first gives the columns
    assert table.where(1).endswith("line 3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"[1, 2]", "is one JSON array, and not of objects; write one JSON object a line"),
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, and there are 2 columns"),
        (b"a,b\n1,2,3\n", "line 2 has 3 cells, and there are 2 columns"),
        (b"a,b,a\n1,2,3\n", "line 1 names the column 'a' twice"),
        (b"a,b\n1,\xff\n", r"is not encoded in utf-8 \(.*--encoding=cp1252"),
        (b"\xff,b\n1,2\n", "is not encoded in utf-8"),
        (b'a,b\n1,"2\n', "line 2 opens a quote that does not close; close it"),
        (b'{"a": 1}\n{"a": }\n', "line 2 is neither JSON nor a Python literal"),
        (b'{"a": 1}\n[1]\n', "line 2 is a list, not an object"),
        (b'{"a": 1}\n{"a": open("/x")}\n', "line 2 is neither JSON nor a Python literal"),
        (b'{"a": "\xff"}\n', "line 1 is not encoded in utf-8"),
        (b"PAR1 and nothing more", "is not a Parquet file"),
        (b"\x1f\x8b and nothing more", "cannot be read"),
    ],
)
def test_unusable_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "f", content, False)
    with pytest.raises(DataError, match=message) as caught:
        TableFile(path).read(lambda _: True, progress=False)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match=rf"{path.name} cannot be read \("):
            TableFile(path).read(lambda _: True)
    path = write(tmp_path / "f.gz", '{"a": 1}\n' * 100_000, True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cannot be read beyond line \d+"):
        TableFile(path).read(lambda _: True, progress=False)


def test_options_for_text_are_refused_for_other_kinds(tmp_path: Path) -> None:
    described = TextFormat(columns=("user", "item"))
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "p")
    for name, content in (("lines", '{"a": 1, "b": 2}'), ("array", '[\n {"a": 1, "b": 2}]')):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match="is JSON, whose columns have names; remove"):
            _ = TableFile(tmp_path / name, described).kind
    with pytest.raises(DataError, match="is Parquet, whose columns have names; remove"):
        _ = TableFile(tmp_path / "p", described).kind
    (tmp_path / "text").write_text("{a},b\n")
    assert TableFile(tmp_path / "text", described).kind == "text"
