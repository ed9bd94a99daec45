from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.errors import HellmError
from recbole_hellm.storage.sealed_folders import RECORD, SealedFolder


@pytest.fixture
def folder(tmp_path: Path) -> SealedFolder:
    made = SealedFolder(tmp_path / "made")
    (made.path / "part").mkdir(parents=True)
    made.file("a.txt").write_text("a")
    made.file("part/b.txt").write_text("b")
    made.file(".0123456789abcdef.tmp").write_text("half")
    made.write_record({"x": 1.5})
    return made


def test_a_record_lists_all_files_but_itself_and_temporary_ones(folder: SealedFolder) -> None:
    assert folder.read_record() == {"x": 1.5}
    assert list(folder.listed() or ()) == ["a.txt", "part/b.txt"]
    assert folder.verified("part/b.txt") == folder.file("part/b.txt")
    assert not [*folder.damages()]


@pytest.mark.parametrize("damage", ["change", "empty", "delete"])
def test_a_damaged_file_is_told(folder: SealedFolder, damage: str) -> None:
    path = folder.file("part/b.txt")
    path.unlink() if damage == "delete" else path.write_text("c" * (damage == "change"))
    with pytest.raises(HellmError, match=r"b.txt is damaged .*; restore the folder."):
        folder.verified("part/b.txt")
    assert [line.split(" is damaged")[0] for line in folder.damages()] == [str(path)]
    assert folder.verified("a.txt")


def test_a_file_that_is_not_listed_is_none_of_the_folder(folder: SealedFolder) -> None:
    folder.file("c.txt").write_text("c")
    assert not folder.holds("c.txt")
    assert folder.holds("a.txt")
    with pytest.raises(HellmError, match=r"c.txt is not listed in metrics.json; restore"):
        folder.verified("c.txt")
    with pytest.raises(HellmError, match=r"d.txt is missing; restore"):
        folder.verified("d.txt")


def edit(folder: SealedFolder, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(folder.file(RECORD).read_text())
    change(content)
    folder.file(RECORD).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content.update(x=2), "checksum differs"),
        (lambda content: content.pop("x"), "checksum differs"),
        (lambda content: content.pop("files"), "checksum differs"),
        (lambda content: content.pop("checksum"), "checksum is missing"),
        (lambda content: content["files"].pop("a.txt"), "checksum differs"),
        (lambda content: content.update(files=["a.txt"]), "files is wrong"),
        (lambda content: content.update(files={"a.txt": None}), "files.a.txt is wrong"),
        (lambda content: content.update(checksum=7), "checksum is wrong"),
    ],
)
def test_a_changed_record_is_told(
    folder: SealedFolder, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    edit(folder, change)
    for reading in (folder.read_record, folder.listed, lambda: folder.verified("a.txt")):
        with pytest.raises(HellmError, match=f"metrics.json.*{sentence}.*; restore the folder."):
            reading()
    assert len([*folder.damages()]) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"a":' * 100_000, "\x00" * 9]
)
def test_a_record_that_is_none_is_told(folder: SealedFolder, text: str) -> None:
    folder.file(RECORD).write_text(text)
    with pytest.raises(HellmError, match=r"metrics.json.*; restore the folder."):
        folder.read_record()


def test_files_of_earlier_versions_are_not_checked(folder: SealedFolder) -> None:
    folder.file(RECORD).write_text('{"x": 1}')
    folder.file("a.txt").write_text("changed")
    assert folder.listed() is None
    assert folder.verified("a.txt").read_text() == "changed"
    assert folder.holds("a.txt")


def test_before_the_record_is_written_files_are_not_checked(folder: SealedFolder) -> None:
    folder.file(RECORD).unlink()
    folder.file("a.txt").write_text("changed")
    assert folder.listed() is None
    assert folder.verified("a.txt")


def test_a_file_is_added_or_replaced(folder: SealedFolder) -> None:
    before = folder.file(RECORD).stat().st_mtime_ns
    for text in ("c", "d"):
        with folder.adding("c.txt"):
            assert not folder.holds("c.txt")
            folder.file("c.txt").write_text(text)
        assert folder.verified("c.txt").read_text() == text
    assert not [*folder.damages()]
    assert folder.read_record() == {"x": 1.5}
    assert folder.file(RECORD).stat().st_mtime_ns == before  # the order of runs stays


def test_a_file_that_could_not_be_added_is_no_damage(folder: SealedFolder) -> None:
    def interrupted() -> None:
        with folder.adding("a.txt"):
            folder.file("a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not folder.holds("a.txt")
    assert not [*folder.damages()]


def test_adding_to_a_folder_of_an_earlier_version_adds_no_checksums(folder: SealedFolder) -> None:
    folder.file(RECORD).write_text('{"x": 1}')
    with folder.adding("c.txt"):
        folder.file("c.txt").write_text("c")
    assert folder.file(RECORD).read_text() == '{"x": 1}'
