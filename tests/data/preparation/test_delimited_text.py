from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from recbole_hellm.data.preparation.delimited_text import DelimitedText, TextFormat
from recbole_hellm.errors import ConfigError, DataError


def read(path: Path, text_format: TextFormat) -> list[list[str]]:
    return DelimitedText(path, text_format).read(lambda _: True).fillna("").to_numpy().tolist()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
def test_common_separators(tmp_path: Path, mark: str, packed: bool) -> None:
    # With a byte-order mark, line ends of Windows and RecBole's types.
    rows = ["user:token,item:token,extra:token_seq", "a,007,x", "", "b,8,"]
    content = ("\ufeff" + "".join(f"{row}\r\n" for row in rows).replace(",", mark)).encode()
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(content) if packed else content)
    file = DelimitedText(path)
    assert file.columns == ("user", "item", "extra")
    frame = file.read({"user", "extra"}.__contains__)
    assert frame.columns.tolist() == ["user", "extra"]
    assert frame["user"].tolist() == ["a", "b"]
    assert frame["extra"].isna().tolist() == [False, True]
    assert file.read("item".__eq__)["item"].tolist() == ["007", "8"]
    assert [file.line_of(row) for row in (0, 1)] == [2, 4]


def test_lines_of_quoted_cells_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text('a,b\n"1\n2",x\n\n"3,4",NA\n5\n')
    frame = DelimitedText(path).read(lambda _: True)
    assert frame["a"].tolist() == ["1\n2", "3,4", "5"]
    assert frame["b"].isna().tolist() == [False, False, True]  # NA is a word
    assert [DelimitedText(path).line_of(row) for row in range(3)] == [2, 5, 6]


def test_files_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text("1\t101\t3\n\n2\t102\t\n")
    file = DelimitedText(path, TextFormat(("user", "item", "rating")))
    assert file.columns == ("user", "item", "rating")
    frame = file.read(lambda _: True)
    assert frame["user"].tolist() == ["1", "2"]
    assert frame["rating"].isna().tolist() == [False, True]
    assert [file.line_of(row) for row in (0, 1)] == [1, 3]
    for columns in (("user", "item"), ("a", "b", "c", "d")):
        message = f"line 1 has 3 cells, and {len(columns)} columns are named"
        with pytest.raises(DataError, match=message):
            read(path, TextFormat(columns))
    path.write_text("1\t2\t3\n1\t2\t3\t4\n")
    with pytest.raises(DataError, match="line 2 has 4 cells, and there are 3 columns"):
        read(path, TextFormat(("user", "item", "rating")))


@pytest.mark.parametrize("separator", ["::", "<>", ".*", " - ", "~", " ", "\x01", "é"])
def test_any_separator(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "f"
    path.write_text("a#b\n1,x#2;y\n3#4\n".replace("#", separator), encoding="utf-8")
    file = DelimitedText(path, TextFormat(separator=separator))
    assert file.columns == ("a", "b")
    assert read(path, file.text_format) == [["1,x", "2;y"], ["3", "4"]]
    assert file.line_of(1) == 3


def test_quotes_are_characters_where_they_enclose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    lines = ['1|"Open|x', '2|Shut"|y']
    path.write_text("\n".join(lines))
    cells = [["1", '"Open', "x"], ["2", 'Shut"', "y"]]
    assert read(path, TextFormat(("a", "b", "c"), "|", quotes=False)) == cells
    file = DelimitedText(path, TextFormat(("a", "b", "c"), "|", quotes=False))
    assert file.line_of(1) == 2
    path.write_text("\n".join(lines).replace("|", "::"))
    assert read(path, TextFormat(("a", "b", "c"), "::")) == cells


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a,b\nCafé,Ö\n", encoding="latin-1")
    assert read(path, TextFormat(encoding="latin-1")) == [["Café", "Ö"]]
    with pytest.raises(DataError, match=r"f is not encoded in utf-8 \(.*--encoding=cp1252"):
        read(path, TextFormat())
    path.write_text("a,b\n1,2\n", encoding="utf-16")
    assert read(path, TextFormat(encoding="utf-16")) == [["1", "2"]]
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert DelimitedText(path, TextFormat(encoding="UTF8")).columns == ("a", "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ("a", "b", "a")}, "The columns include 'a' twice"),
        ({"separator": ""}, "The separator '' cannot divide cells"),
        ({"separator": "\n"}, "cannot divide cells"),
        ({"separator": '"'}, "cannot divide cells"),
        ({"encoding": "latin1000"}, "There is no encoding 'latin1000'"),
        ({"encoding": "hex"}, "There is no encoding 'hex'"),
    ],
)
def test_impossible_formats(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextFormat(**options)
