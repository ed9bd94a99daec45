from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_hellm.data import prepare
from recbole_hellm.data.features import list_features, save_features
from recbole_hellm.errors import DataError, FeatureError

ITEMS = """item_id:token\ttitle:token_seq
a\tred wool hat
b\tblue wool hat
c\tred silk scarf
d\tblue silk scarf
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.item").write_text(ITEMS)
    return folder


def config(folder: Path, **overrides: Any) -> dict[str, Any]:
    options = {"raw_dir": None, "mirrors": None, "features": None, "text_encoder": "auto"}
    return {"data_path": str(folder), "dataset": folder.name} | options | overrides


def names(folder: Path) -> list[str]:
    return [info.name for info in list_features(folder)]


def test_unknown_dataset_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare.prepare_dataset("Beuty", tmp_path / "Beuty")
    message = str(caught.value)
    assert message.startswith("Unknown dataset 'Beuty' (did you mean Beauty?); use sample,")
    assert str(tmp_path / "Beuty") in message


def test_a_known_dataset_is_made_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(prepare, "prepare_amazon", lambda *given, **_: made.append(given))
    monkeypatch.setattr(prepare, "generate_sample", lambda *given: made.append(given))
    beauty = tmp_path / "Beauty"
    prepare.ensure_dataset(config(beauty, raw_dir="/raw"))
    prepare.ensure_dataset(config(tmp_path / "sample"))
    assert made == [("Beauty", beauty, Path("/raw")), (tmp_path / "sample",)]
    beauty.mkdir()
    (beauty / "Beauty.inter").write_text("")
    prepare.ensure_dataset(config(beauty))
    assert len(made) == 2


def test_missing_raw_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Beauty.*--raw_dir or the environment variable"):
        prepare.ensure_dataset(config(tmp_path / "Beauty", raw_dir=str(tmp_path)))


def test_texts_are_encoded_once(folder: Path) -> None:
    prepare.ensure_features(config(folder, text_encoder="tfidf"))
    assert names(folder) == ["text-tfidf"]
    path = folder / "features/text-tfidf.npy"
    before = path.stat().st_mtime_ns
    prepare.ensure_features(config(folder, text_encoder="tfidf"))
    prepare.ensure_features(config(folder))  # auto takes the text features that are there
    assert path.stat().st_mtime_ns == before
    assert names(folder) == ["text-tfidf"]


def test_an_encoder_that_is_named_is_run_beside_others(folder: Path) -> None:
    save_features(folder, "text", "mine", ["a", "b", "c", "d"], np.ones((4, 1)))
    prepare.ensure_features(config(folder))
    assert names(folder) == ["text-mine"]
    prepare.ensure_features(config(folder, text_encoder="tfidf"))
    assert names(folder) == ["text-mine", "text-tfidf"]


def test_named_features_need_no_encoding(folder: Path) -> None:
    prepare.ensure_features(config(folder, features=["image-clip"]))
    assert names(folder) == []


def test_neither_texts_nor_features_is_told(folder: Path) -> None:
    (folder / "shop.item").unlink()
    with pytest.raises(FeatureError, match=r"'shop' has neither item texts \(shop.item\) nor"):
        prepare.ensure_features(config(folder))
    with pytest.raises(DataError, match=r"shop.item is missing, so there is no text"):
        prepare.encode_dataset("shop", folder)
    save_features(folder, "image", "mine", ["a"], np.ones((1, 1)))
    prepare.ensure_features(config(folder))  # an image is enough
