"""Damaged feature files: each ends in one sentence with a way out that works."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_hellm.data.features.feature_files import read_manifest, read_set
from recbole_hellm.data.features.store import list_features, load_features, save_features
from recbole_hellm.errors import FeatureError
from recbole_hellm.storage.checksums import file_sha256

TOKENS = ["a", "b", "c"]
MATRIX = np.arange(6, dtype=np.float32).reshape(3, 2)
SUFFIXES = (".npy", ".json", ".tokens.json")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_features(tmp_path / "toy", "text", "tfidf", TOKENS, MATRIX, {"revision": "r1"})


def refusal(path: Path) -> str:
    with pytest.raises(FeatureError) as caught:
        load_features(path.parent.parent, TOKENS)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and str(path.parent) in message
    return message


def test_a_set_comes_back(path: Path) -> None:
    tokens, matrix = read_set(path)
    assert tokens == TOKENS
    np.testing.assert_array_equal(matrix, MATRIX)
    manifest = read_manifest(path)
    assert sorted(manifest["files"]) == ["text-tfidf.npy", "text-tfidf.tokens.json"]


def test_sets_of_earlier_versions_have_no_checksum(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = read_manifest(path)
    for key in ("files", "checksum", "saved_at"):
        del manifest[key]
    path.with_suffix(".json").write_text(json.dumps(manifest))
    with caplog.at_level("INFO"):
        np.testing.assert_array_equal(read_set(path)[1], MATRIX)
    assert "text-tfidf.json has no checksum" in caplog.text
    path.with_suffix(".tokens.json").write_text(json.dumps(TOKENS[::-1]))
    assert "its tokens are others" in refusal(path)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "deep": lambda _: b"[" * 100_000,
    "text": lambda _: b"\xff\xfe no JSON",
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_told(path: Path, suffix: str, damage: str) -> None:
    file = path.with_suffix(suffix)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    told = refusal(path)
    assert f"text-tfidf{suffix}" in told
    assert "delete the files text-tfidf.* there" in told
    for file in path.parent.glob("text-tfidf.*"):  # the way out
        file.unlink()
    assert list_features(path.parent.parent) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_flipped_bit_is_noticed(path: Path, suffix: str) -> None:
    file = path.with_suffix(suffix)
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        refusal(path)


def test_every_key_is_checked(path: Path) -> None:
    file = path.with_suffix(".json")
    manifest = json.loads(file.read_text())
    del manifest["checksum"]  # as if earlier versions had written it
    values: list[Any] = [None, -1, "x", [], {}, [["x"]], True]
    for key in manifest:
        for value in values:
            file.write_text(json.dumps({**manifest, key: value}))
            with contextlib.suppress(FeatureError):
                np.testing.assert_array_equal(read_set(path)[1], MATRIX)
        file.write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
        if key in ("modality", "encoder", "rows", "dim", "matrix_sha256", "tokens_sha256"):
            assert f"{key} is wrong (Field required)" in refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_another_set_are_noticed(path: Path, suffix: str) -> None:
    other = save_features(path.parent.parent, "text", "bert", TOKENS[::-1], MATRIX + 1)
    shutil.copy(other.with_suffix(suffix), path.with_suffix(suffix))
    with pytest.raises(FeatureError, match="text-tfidf"):
        load_features(path.parent.parent, TOKENS, ["text-tfidf"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pipe_does_not_hang(path: Path, suffix: str) -> None:
    path.with_suffix(suffix).unlink()
    os.mkfifo(path.with_suffix(suffix))
    assert "it is no regular file" in refusal(path)


@pytest.mark.parametrize(
    "matrix",
    [
        np.full((3, 2), "x"),
        np.zeros((3, 2), dtype=[("x", "f4")]),
        np.zeros((3, 2), dtype=complex),
        np.zeros((3, 2), dtype="M8[s]"),
        np.zeros((2, 3)),
        np.float32(1),
    ],
    ids=str,
)
def test_arrays_that_are_no_features(path: Path, matrix: np.ndarray) -> None:
    np.save(path, matrix)
    manifest = read_manifest(path) | {"matrix_sha256": file_sha256(path)}
    del manifest["checksum"], manifest["files"]
    path.with_suffix(".json").write_text(json.dumps(manifest))
    assert "text-tfidf.npy" in refusal(path)
