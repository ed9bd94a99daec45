from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from recbole_hellm.data.preparation.manifest import (
    check_files,
    describe_source,
    describe_table,
    listed_files,
    read_manifest,
)
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.errors import DataError
from recbole_hellm.storage.checksums import sealed

MANIFEST = {
    "format_version": 1,
    "name": "demo",
    "users": 3,
    "items": 4,
    "interactions": 8,
    "sparsity": 1 - 8 / 12,
    "users_below_three": 1,
    "users_with_tied_test": 1,
    "users_with_tied_validation": 1,
}


def test_manifest_is_read_back(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    assert read_manifest(tmp_path) == MANIFEST


def test_sources_are_described(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_bytes(b"raw")
    sha256 = hashlib.sha256(b"raw").hexdigest()
    described = {"file": "raw.txt", "bytes": 3, "sha256": sha256}
    assert describe_source(tmp_path / "raw.txt") == described


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"format_version": 0}',
        b"{}",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format_version": "1"}',
        b'{"format_version": 1, "files": [{"file": "x"}]}',
        b'{"format_version": 1, "files": {"x.inter": 7}}',
        b'{"format_version": 1, "users": 3, "checksum": "0"}',
    ],
)
def test_unusable_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json.*prepare the dataset again") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_changed_count_is_noticed(tmp_path: Path) -> None:
    document = sealed(MANIFEST)
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    assert read_manifest(tmp_path) == document
    (tmp_path / "manifest.json").write_text(json.dumps(document | {"users": 4}))
    with pytest.raises(DataError, match=r"manifest\.json is damaged \(its checksum differs\)"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("earlier", [False, True])
def test_files_are_checked(tmp_path: Path, earlier: bool) -> None:
    check_files(tmp_path)  # RecBole's files from elsewhere have no manifest
    sha256 = hashlib.sha256(b"data").hexdigest()
    files = [{"file": "demo.inter", "bytes": 4, "sha256": sha256}]
    manifest = MANIFEST | {"files": files if earlier else {"demo.inter": sha256}}
    document = manifest if earlier else sealed(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    assert listed_files(document) == {"demo.inter": sha256}
    with pytest.raises(DataError, match=r"demo\.inter is damaged \(it is missing\)"):
        check_files(tmp_path)
    (tmp_path / "demo.inter").write_bytes(b"data")
    check_files(tmp_path)
    (tmp_path / "demo.inter").write_bytes(b"dat4")
    check_files(tmp_path, ["demo.item"])
    with pytest.raises(DataError, match=r"demo\.inter is damaged .*again with --force, or delete"):
        check_files(tmp_path)
    (tmp_path / "manifest.json").unlink()
    check_files(tmp_path)


def test_a_manifest_without_files_checks_none(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    check_files(tmp_path)


def test_rows_of_a_file_are_described() -> None:
    counts = RowCounts(read=5, columns_taken=["a"], columns_left=["b"])
    counts.add("duplicates", 2)
    assert describe_table("log.csv", counts) == {
        "file": "log.csv",
        "read": 5,
        "kept": 3,
        "dropped": {"duplicates": 2},
        "columns_taken": ["a"],
        "columns_left": ["b"],
        "notes": [],
    }
