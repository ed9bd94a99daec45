from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from recbole_hellm.data.preparation.manifest import describe, describe_source, read_manifest
from recbole_hellm.errors import DataError

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


@pytest.mark.parametrize("content", ["{", "[]", '{"format_version": 0}', "{}"])
def test_unusable_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json .*prepare the dataset again"):
        read_manifest(tmp_path)


def test_description_is_aligned() -> None:
    manifest = MANIFEST | {"interactions": 198_502}
    heading, row, *rest = describe(manifest).split("\n")
    assert len(heading) == len(row)
    assert heading.split()[3:] == ["Interactions", "Density", "Sparsity"]
    assert row.split() == ["demo", "3", "4", "198,502", "66.667", "%", "33.333", "%"]
    assert rest == [
        "",
        "Of 2 evaluated users, equal times leave to the rule for ties",
        "  the test item of 1 (50.0 %)",
        "  the validation item of 1 (50.0 %)",
        "1 users have fewer than three interactions: they train only",
    ]
    old = {key: manifest[key] for key in manifest if key != "users_with_tied_validation"}
    assert "validation item" not in describe(old)  # written before it was counted
