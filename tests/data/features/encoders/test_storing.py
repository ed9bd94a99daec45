"""Which stored features are current, whose they are, and how missing rows are filled."""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from recbole_hellm.data.features.encoders import storing
from recbole_hellm.data.features.encoders.storing import (
    check_own,
    encoded,
    is_current,
    making,
    rounding,
    save_filled,
)
from recbole_hellm.data.features.feature_files import read_manifest
from recbole_hellm.data.features.store import save_features
from recbole_hellm.errors import FeatureError, StorageError

TOKENS = ["a", "b", "c", "d"]
RECIPE = {"revision": "r1", "texts_sha256": "t1"}
MATRIX = np.arange(8, dtype=np.float32).reshape(4, 2)


class Batches:
    """An encoder that works in batches."""

    name, revision, batch_size, precision = "batches", "r1", 2, "float32 on cpu"

    def encode_batch(self, inputs: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([[len(text), 1] for text in inputs], dtype=np.float32)


class Whole:
    """An encoder that takes all inputs at once."""

    name, revision = "whole", "r1"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def save(folder: Path, **details: Any) -> Path:
    return save_features(folder, "text", "bert", TOKENS, MATRIX, {**RECIPE, **details})


def test_features_are_current_for_the_same_items_and_recipe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path)
    assert is_current(path, TOKENS, RECIPE)
    assert not is_current(path, TOKENS[:3], RECIPE)
    assert not is_current(path, TOKENS, RECIPE | {"revision": "r2"})
    assert not is_current(path, TOKENS, RECIPE | {"texts_sha256": "t2"})
    assert not is_current(path.with_name("text-other.npy"), TOKENS, RECIPE)
    assert "Encoding again" not in caplog.text
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert not is_current(path, TOKENS, RECIPE)
    assert "Encoding again" in caplog.text


def left(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def test_what_a_killed_encoding_left_goes(tmp_path: Path) -> None:
    path = save(tmp_path)
    whole = left(path)
    for name in (".partial", ".partial.progress", ".partial.lock", ".lock"):
        path.with_name(f"{path.stem}{name}").write_bytes(b"1")
    (path.parent / f".{'0' * 16}.tmp").write_bytes(b"1")
    with making(path, TOKENS, RECIPE, "bert", force=False) as needed:
        assert not needed
    assert left(path) == whole


def test_one_process_at_a_time_makes_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "features" / "text-bert.npy"
    answers = []

    def make() -> None:
        with making(path, TOKENS, RECIPE, "bert", force=False) as needed:
            answers.append(needed)

    with making(path, TOKENS, RECIPE, "bert", force=False) as needed:
        assert needed
        other = threading.Thread(target=make)
        other.start()
        while "waiting for it" not in caplog.text:
            time.sleep(0.01)
        save(tmp_path)
    other.join()
    assert answers == [False]  # it finds them current
    monkeypatch.setattr(storing, "LONGEST_WAIT", 0.1)
    with (
        making(path, TOKENS, RECIPE, "bert", force=True),
        pytest.raises(FeatureError, match="is being made by another process; wait until"),
        making(path, TOKENS, RECIPE, "bert", force=True),
    ):
        pass
    assert left(path) == ["text-bert.json", "text-bert.npy", "text-bert.tokens.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = save(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path.parent))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with making(path, TOKENS, RECIPE, "bert", force=False) as needed:
            assert not needed  # what is there can be used
        with (
            pytest.raises(StorageError, match="cannot be written"),
            making(path, TOKENS, RECIPE, "bert", force=True),
        ):
            pass


def test_a_set_of_another_origin_is_protected(tmp_path: Path) -> None:
    path = save(tmp_path, requested_encoder="org/bert")
    check_own(path, "org/bert", "r2")
    check_own(path, "org/other", "r1")  # the same revision
    with pytest.raises(FeatureError, match=r"was made by org/bert, not by text encoder org/other"):
        check_own(path, "org/other", "r2")
    path = save(tmp_path, revision="r0")
    with pytest.raises(FeatureError, match=r"came from elsewhere, .*--force"):
        check_own(path, "org/bert", "r2")
    check_own(save(tmp_path, template="{title}"), "org/bert", "r2")  # an import has no template
    path.with_suffix(".json").unlink()
    check_own(path, "org/bert", "r2")


def test_spellings_of_one_encoder_are_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "bert").mkdir()
    path = save(tmp_path, requested_encoder=str(tmp_path / "bert"))
    monkeypatch.chdir(tmp_path)
    check_own(path, "./bert", "r2")
    path = save(tmp_path, requested_encoder="auto")
    check_own(path, "auto", "r2")


def test_files_for_resuming_go_once_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "features" / "text-batches.npy"

    def fail() -> None:
        with encoded(Batches(), ["x", "yy", "zzz"], path, RECIPE, progress=False):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    progress = path.with_name("text-batches.partial.progress")
    assert json.loads(progress.read_text().splitlines()[0]) == {
        "format": 2,
        "name": "batches",
        "batch_size": 2,
        "precision": "float32 on cpu",
        **RECIPE,
    }
    with encoded(Batches(), ["x", "yy", "zzz"], path, RECIPE, progress=False) as vectors:
        np.testing.assert_array_equal(vectors, [[1, 1], [2, 1], [3, 1]])
        assert progress.exists()
    np.testing.assert_array_equal(vectors, [[1, 1], [2, 1], [3, 1]])
    assert list(path.parent.iterdir()) == []


def test_an_encoder_without_batches_is_asked_once(tmp_path: Path) -> None:
    path = tmp_path / "features" / "text-whole.npy"
    with encoded(Whole(), ["x", "yy"], path, RECIPE) as vectors:
        np.testing.assert_array_equal(vectors, [[1, 1], [2, 1]])
    assert not path.parent.exists()
    assert rounding(Whole()) == {}
    assert rounding(Batches()) == {"batch_size": 2, "precision": "float32 on cpu"}


def test_missing_rows_get_the_mean_of_the_others(tmp_path: Path) -> None:
    present = np.array([True, False, True, False])
    vectors = np.array([[1, 2], [3, 6]], dtype=np.float32)
    path = save_filled(tmp_path, "text", "bert", TOKENS, present, vectors, {"revision": "r1"})
    np.testing.assert_array_equal(np.load(path), [[1, 2], [2, 4], [3, 6], [2, 4]])
    assert read_manifest(path)["missing"] == ["b", "d"]
    path = save_filled(tmp_path, "text", "bert", TOKENS, np.ones(4, dtype=bool), MATRIX, {})
    np.testing.assert_array_equal(np.load(path), MATRIX)
    assert read_manifest(path)["missing"] == []
