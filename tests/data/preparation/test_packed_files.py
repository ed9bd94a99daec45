from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from recbole_hellm.data.preparation.packed_files import (
    archive_of,
    member_of,
    numbered_lines,
    open_binary,
)
from recbole_hellm.errors import DataError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("ml/u.data", "1\n")
        members.writestr("__MACOSX/ml/._u.data", "junk")
        members.writestr("ml/old/backup/u.data", "2\n")
    return path


def test_plain_gzipped_and_archived_files_have_the_same_bytes(
    tmp_path: Path, archive: Path
) -> None:
    (tmp_path / "plain.gz.txt").write_bytes(b"1\n")
    (tmp_path / "gzipped.txt").write_bytes(gzip.compress(b"1\n"))  # whatever its name says
    for path in (tmp_path / "plain.gz.txt", tmp_path / "gzipped.txt", archive / "ml/u.data"):
        with open_binary(path) as file:
            assert file.read() == b"1\n"


def test_members_of_archives(tmp_path: Path, archive: Path) -> None:
    assert member_of(archive, "u.data") == archive / "ml/u.data"
    assert archive_of(archive / "ml/u.data") == archive
    assert archive_of(archive) is None
    (tmp_path / "folder.zip").mkdir()
    assert archive_of(tmp_path / "folder.zip/u.data") is None
    with pytest.raises(FileNotFoundError, match=r"ml\.zip has no such member"):
        open_binary(archive / "u.data")
    with pytest.raises(DataError, match=r"ml\.zip has no file u\.item"):
        member_of(archive, "u.item")
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"ml\.zip is not a complete zip archive"):
        member_of(archive, "u.data")


def test_lines_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\n\n  \nb")
    assert list(numbered_lines(path, progress=False)) == [(1, b"a\n"), (4, b"b")]
    path.write_bytes(gzip.compress(b"".join(b"%d\n" % (n * n) for n in range(5_000)))[:-2_000])
    with pytest.raises(DataError, match=r"f cannot be read beyond line \d+"):
        list(numbered_lines(path, progress=False))


def test_members_that_cannot_be_unpacked_are_told(tmp_path: Path) -> None:
    path = tmp_path / "log.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as members:
        members.writestr("log.csv", "user,item\n" + "a,b\n" * 5_000)
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")

    def replaced(place: int, byte: int) -> bytes:
        return whole[:place] + bytes([byte]) + whole[place + 1 :]

    encrypted, unknown, damaged = (
        replaced(entry + 8, 1),
        replaced(entry + 10, 97),
        replaced(50, 255),
    )
    for content in (encrypted, unknown, damaged):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"log\.csv cannot be read"):
            list(numbered_lines(path / "log.csv", progress=False))
