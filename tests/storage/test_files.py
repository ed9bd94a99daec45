from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_hellm.errors import StorageError
from recbole_hellm.storage.files import (
    atomic_folder,
    atomic_path,
    atomic_paths,
    remove_leftovers,
    settle_folders,
    write_bytes,
    write_text,
    writing,
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
        "import os, sys\nfrom pathlib import Path\n"
        "from recbole_hellm.storage.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        f"    os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    assert subprocess.run(command, check=False).returncode != 0  # noqa: S603
    assert (tmp_path / "file").read_text() == "old"
    assert len([*tmp_path.glob(".*.tmp")]) == 1
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["file"]


def test_what_a_living_process_writes_is_no_leftover(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "file") as temporary:
        remove_leftovers(tmp_path)
        temporary.write_text("whole")
        remove_leftovers(tmp_path)
        (tmp_path / ".of-another-program.tmp").write_text("")
        remove_leftovers(tmp_path)
    assert names(tmp_path) == [".of-another-program.tmp", "file"]


def test_the_first_write_into_a_folder_removes_leftovers(tmp_path: Path) -> None:
    (tmp_path / f".{'0' * 16}.tmp").write_text("half")
    write_text(tmp_path / "file", "whole")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos"), "full"),
        (OSError("1000 requested and 12 written"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "use another folder"),
    ],
)
def test_a_full_disk_and_a_read_only_folder_end_in_one_sentence(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    for write in (atomic_path, atomic_folder):
        with pytest.raises(StorageError, match=reason) as caught, write(tmp_path / "target"):
            raise error
        assert str(tmp_path / "target") in str(caught.value)
        assert names(tmp_path) == []


def test_errors_of_other_files_stay_what_they_are(tmp_path: Path) -> None:
    other = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/source.csv")
    with pytest.raises(PermissionError), atomic_path(tmp_path / "target"):
        raise other
    with pytest.raises(ValueError, match="x"), writing(tmp_path / "target"):
        raise ValueError("x")


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


def test_a_folder_whose_replacement_was_killed_is_put_back(tmp_path: Path) -> None:
    for name in (".kept.old", "new", ".new.old", ".half.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".file.old").write_text("not a folder")
    settle_folders(tmp_path)
    assert names(tmp_path) == [".file.old", "kept", "new"]
    assert (tmp_path / "kept/file").read_text() == ".kept.old"
    assert (tmp_path / "new/file").read_text() == "new"


def interrupted_writer() -> None:
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos")


def test_an_interrupt_that_a_library_complains_of_stays_an_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "a"):
        interrupted_writer()


def test_a_folder_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "x").write_text("old")
    replace = os.replace

    def fail_once(source: Path, target: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError(errno.EIO, "broken disk")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="broken disk"), atomic_folder(folder) as temporary:
        (temporary / "x").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "x").read_text() == "old"


def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out").symlink_to("/proc/self/fd/1")
    for target in (tmp_path / "pipe", Path("/dev/null"), tmp_path / "out"):
        with pytest.raises(StorageError, match=f"{target} is no regular file; name another"):
            write_text(target, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pipe"]


@pytest.mark.parametrize("place", ["file/below/name", "x" * 300 + "/name"])
def test_a_place_that_cannot_be_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written .*; name another place"):
        write_text(tmp_path / place, "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"folder cannot be written .*; name another place"):
        write_text(tmp_path / "folder", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
