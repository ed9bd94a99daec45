from __future__ import annotations

from pathlib import Path

import pytest

from recbole_hellm.data.features.row_tokens import read_rows
from recbole_hellm.errors import DataError, FeatureError


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("a\nb\n", ["a", "b"]),
        ("\ufeffa\r\nb", ["a", "b"]),
        ("a\u2028x\nb\x0cy\n", ["a\u2028x", "b\x0cy"]),  # only line ends end a line
        ('"a"\n"b ""x"""\n', ["a", 'b "x"']),
        ('"a"\nb"\n', ['"a"', 'b"']),
        ("007\n 7 \n", ["007", "7"]),
    ],
)
def test_a_token_a_line(tmp_path: Path, content: str, tokens: list[str]) -> None:
    (tmp_path / "t.txt").write_bytes(content.encode())
    rows = read_rows(tmp_path / "t.txt")
    assert dict(rows.of) == {token: row for row, token in enumerate(tokens)}
    assert (rows.count, rows.path) == (len(tokens), tmp_path / "t.txt")


def test_numbers_are_written_as_prepare_writes_them(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('[7, 8.0, " 09 ", 12345678901234567890]')
    assert list(read_rows(tmp_path / "t.json").of) == ["7", "8", "09", "12345678901234567890"]


@pytest.mark.parametrize("file", ["t.txt", "t.csv"])
def test_encodings(tmp_path: Path, file: str) -> None:
    text = "é\nü\n" if file == "t.txt" else "item,row\né,0\nü,1\n"
    (tmp_path / file).write_bytes(text.encode("latin-1"))
    assert list(read_rows(tmp_path / file, "latin-1").of) == ["é", "ü"]
    with pytest.raises(DataError, match=f"{file}.*utf-8"):
        read_rows(tmp_path / file)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 100_000, "is nested too deeply"),
        ("[true]", "is wrong"),
        ("[null]", "is wrong"),
        ('["a", "a"]', "occur more than once"),
        ('["a", ""]', "the token of row 1 is empty"),
        ("[NaN]", "is a text or a whole number"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises((DataError, FeatureError), match=sentence):
        read_rows(tmp_path / "t.json")
