from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
from typing_extensions import TypedDict

from recbole_hellm.errors import RunError
from recbole_hellm.storage.json_files import read_json


class Document(TypedDict):
    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    score: float
    stages: dict[str, str]


def test_content_that_fits_is_returned_whole(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    path.write_text('{"score": 1, "stages": {}, "further": [1]}')
    assert read_json(path, Document, RunError, "x") == {"score": 1, "stages": {}, "further": [1]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ("[]", "its content is wrong"),
        ('{"score": 1}', "stages is wrong .Field required"),
        ('{"score": "1", "stages": {}}', "score is wrong"),
        ('{"score": null, "stages": {}}', "score is wrong"),
        ('{"score": 1, "stages": {"a": 1}}', "stages.a is wrong"),
    ],
)
def test_anything_else_names_file_key_and_way_out(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "document.json"
    path.write_text(text)
    with pytest.raises(RunError, match=f"document.json:? {reason}.*; run again"):
        read_json(path, Document, RunError, "run again")


def test_numbers_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    path.write_text('{"count": 3, "share": 0.5}')
    found = read_json(path, dict[str, float], RunError, "restore it")
    assert found == {"count": 3, "share": 0.5}
    assert type(found["count"]) is int
