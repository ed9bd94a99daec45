from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_hellm.files import (
    atomic_folder,
    atomic_path,
    atomic_paths,
    file_sha256,
    remove_leftovers,
    update_digest,
    write_bytes,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "é\r\n\n")
    write_bytes(tmp_path / "new" / "b", b"\0\xff", sync=True)
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"\xc3\xa9\r\n\n"
    assert (tmp_path / "new" / "b").read_bytes() == b"\0\xff"
    assert names(tmp_path / "new") == ["a.txt", "b"]


def test_a_name_may_have_the_greatest_length(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"1")
    assert names(tmp_path) == ["x" * 255]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")

    def fail() -> None:
        with atomic_path(tmp_path / "file") as temporary:
            assert temporary.parent == tmp_path
            temporary.write_text("half")
            assert (tmp_path / "file").read_text() == "old"
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_several_files_appear_together(tmp_path: Path) -> None:
    targets = [tmp_path / "a", tmp_path / "b"]

    def interrupted() -> None:
        with atomic_paths(targets) as temporaries:
            temporaries[0].write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []
    with atomic_paths(targets) as temporaries:
        for temporary in temporaries:
            temporary.write_text("new")
        assert not any(target.exists() for target in targets)
    assert names(tmp_path) == ["a", "b"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "file") as first, atomic_path(tmp_path / "file") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "file").read_text() == "first"  # whose block ended last
    assert names(tmp_path) == ["file"]


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom recbole_hellm.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        f"    os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    assert subprocess.run(command, check=False).returncode != 0  # noqa: S603
    assert (tmp_path / "file").read_text() == "old"
    (leftover,) = tmp_path.glob(".*.tmp")
    remove_leftovers(tmp_path)
    assert leftover.exists()  # another process may still be writing it
    os.utime(leftover, (0, 0))
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["file"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (tmp_path / ".model.tmp").mkdir()
    (tmp_path / ".model.tmp" / "of a killed process").write_text("")
    for content in ("old", "new"):
        with atomic_folder(folder) as temporary:
            assert names(temporary) == []
            (temporary / content).write_text(content)
    assert names(folder) == ["new"]

    def fail() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "half").write_text("")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert names(folder) == ["new"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_a_file_is_hashed_whole(tmp_path: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(b"before")
    update_digest(digest, tmp_path / "file")
    assert digest.hexdigest() == hashlib.sha256(b"before" + content).hexdigest()
