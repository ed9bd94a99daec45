from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_hellm.data.preparation import object_files
from recbole_hellm.data.preparation.object_files import array_objects, parse_object
from recbole_hellm.errors import DataError

PATH = Path("f.json")


def test_json_and_literals_are_objects() -> None:
    for line in (b'{"a": [1, null, true]}', b"\xef\xbb\xbf{'a': [1, None, True]}\n"):
        assert parse_object(line, PATH, 1) == {"a": [1, None, True]}
    assert str(parse_object(b'{"a": NaN}', PATH, 1)) == "{'a': nan}"
    assert parse_object(b'{"a": 1, "a": 1}', PATH, 1) == {"a": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "line 7 gives the key c twice; keep one of them"),
        (b'{"a": ' + b"[" * 200_000, "line 7 is neither JSON nor a Python literal"),
        (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "line 7 is neither .*nested too deeply"),
        (b'{"a": __import__("os")}', "line 7 is neither"),
        (b"{", "line 7 is neither .* it must be one object"),
        (b"{1, 2}", "line 7 is a set, not an object"),
        (b'{"a": "\xe9"}', r"line 7 is not encoded in utf-8 .*--encoding=cp1252"),
    ],
)
def test_other_lines_are_told(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"f\.json, {message}"):
        parse_object(line, PATH, 7)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_arrays_are_read_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    rows = [{"a": number, "b": ["é" * number, None, {}]} for number in range(30)]
    path = tmp_path / "f"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding=encoding)
    for block in (1, 7, 1 << 20):
        monkeypatch.setattr(object_files, "_BLOCK", block)
        told = "latin-1" if encoding == "latin-1" else "utf-8"
        read = list(array_objects(path, told))
        assert [row for _, row in read] == rows
        assert [line for line, _ in read] == [2 + 8 * place for place in range(30)]
    path.write_text(" [ ] \n")
    assert list(array_objects(path, "utf-8")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}', "line 1: the JSON array does not end"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: a comma is missing"),
        ('[{"a": 1},\n]', "line 2: an element of the JSON array is no object"),
        ('[{"a": 1}] x', "line 1: text follows the JSON array"),
        ('[{"a": 1}, 7]', "line 1 is a int, not an object"),
        ("[{'a': 1}]", "line 1: an element of the JSON array is no object"),
        ('[{"a": ' + "[" * 200_000, "line 1: an element .*nested too deeply"),
        ('[{"a": 1, "a": 2}]', "line 1 gives the key a twice"),
        ('[{"a": "\xff"}]', "is not encoded in utf-8"),
    ],
)
def test_damaged_arrays_are_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        list(array_objects(path, "utf-8"))
