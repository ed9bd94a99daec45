"""Which stored features are current, whose they are, and how missing rows are filled."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from recbole_hellm.data.features.encoders.storing import (
    check_own,
    encoded,
    is_current,
    rounding,
    save_filled,
)
from recbole_hellm.data.features.feature_files import read_manifest
from recbole_hellm.data.features.store import save_features
from recbole_hellm.errors import FeatureError

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
