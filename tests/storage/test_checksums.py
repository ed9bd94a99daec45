from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from recbole_hellm.errors import RunError
from recbole_hellm.storage import checksums as module
from recbole_hellm.storage.checksums import (
    check_file,
    check_seal,
    checksums,
    damage,
    file_sha256,
    sealed,
    update_digest,
)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_a_file_is_hashed_whole(tmp_path: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(b"before")
    update_digest(digest, tmp_path / "file")
    assert digest.hexdigest() == hashlib.sha256(b"before" + content).hexdigest()


def test_a_sealed_document_tells_every_change(tmp_path: Path) -> None:
    document = sealed({"a": {"x": 0.1, "y": [1, None]}, "path": tmp_path, "pair": (1, 2)})
    path = tmp_path / "document.json"
    path.write_text(json.dumps(document, indent=2))
    text = path.read_text()
    check_seal(json.loads(text), path, RunError, "restore it")
    check_seal({"a": 1}, path, RunError, "restore it")  # of an earlier version
    for old, new in (("0.1", "0.2"), ("null", "0"), ('"y"', '"z"'), (document["checksum"], "0")):
        with pytest.raises(RunError, match=r"document.json is damaged .*; restore it"):
            check_seal(json.loads(text.replace(old, new)), path, RunError, "restore it")
    # A changed letter of its key does not make it a document without a checksum.
    renamed = json.loads(text.replace('"checksum"', '"chdcksum"'))
    with pytest.raises(RunError, match=r"is damaged \(it has no checksum and one under another"):
        check_seal(renamed, path, RunError, "restore it")


def test_listed_files_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    listed = checksums(tmp_path, ["b", "a"])
    assert list(listed) == ["a", "b"]
    assert check_file(tmp_path, listed, "a", RunError, "restore it") == tmp_path / "a"
    (tmp_path / "a").write_bytes(b"3")
    (tmp_path / "b").unlink()
    assert damage(tmp_path, listed, "a") == "its checksum differs"
    assert damage(tmp_path, listed, "b") == "it is missing"
    assert damage(tmp_path, listed, "c") is None
    with pytest.raises(RunError, match=r"a is damaged .its checksum differs.; restore it"):
        check_file(tmp_path, listed, "a", RunError, "restore it")


def test_a_file_that_stays_as_it_is_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    first = module.known_sha256(path)
    assert first == hashlib.sha256(b"a").hexdigest()
    with monkeypatch.context() as patched:
        patched.setattr(module, "file_sha256", lambda _: pytest.fail("read again"))
        assert module.known_sha256(path) == first
    path.write_text("bb")
    assert module.known_sha256(path) == hashlib.sha256(b"bb").hexdigest()
