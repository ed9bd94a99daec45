from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_hellm.data.features.encoders.text import named_features
from recbole_hellm.data.features.store import list_features, save_features
from recbole_hellm.data.preparation import prepare
from recbole_hellm.data.preparation.atomic import read_items, read_manifest
from recbole_hellm.data.preparation.prepare import PrepareSettings, prepare_files
from recbole_hellm.errors import ConfigError, DataError, FeatureError

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


@pytest.mark.parametrize("details", [{}, {"requested_encoder": "m/TFIDF", "template": "{title}"}])
def test_features_of_another_origin_are_kept(folder: Path, details: dict[str, Any]) -> None:
    tokens = ["a", "b", "c", "d"]
    path = save_features(folder, "text", "tfidf", tokens, np.ones((4, 1)), details)
    before = path.read_bytes()
    with pytest.raises(FeatureError) as caught:
        prepare.ensure_features(config(folder, text_encoder="tfidf"))
    told = str(caught.value)
    assert told.startswith(f"{path} ") and told.endswith("--features='[text-tfidf]'.")
    assert "--force" in told and "--encoder name" in told
    assert path.read_bytes() == before
    prepare.encode_dataset("shop", folder, "tfidf", force=True, progress=False)
    assert path.read_bytes() != before
    prepare.ensure_features(config(folder, text_encoder="tfidf"))


@pytest.mark.parametrize(
    "details",
    [
        {"requested_encoder": "tfidf", "template": "{old}"},
        {"requested_encoder": "auto", "template": "{old}"},
        {"template": "{old}"},
    ],
)
def test_own_features_are_replaced(folder: Path, details: dict[str, Any]) -> None:
    path = save_features(folder, "text", "tfidf", list("abcd"), np.ones((4, 1)), details)
    before = path.read_bytes()
    prepare.ensure_features(config(folder, text_encoder="tfidf"))
    assert path.read_bytes() != before


def test_a_named_encoder_chooses_its_own_features(folder: Path) -> None:
    for name in ("text-mine", "text-tfidf", "text-bert-model", "image-mine"):
        save_features(folder, *name.split("-", 1), list("abcd"), np.ones((4, 1)))
    assert named_features(folder, "auto") is None
    assert named_features(folder, "tfidf") == ["image-mine", "text-tfidf"]
    assert named_features(folder, "m/BERT/") == ["image-mine", "text-bert-model"]
    assert named_features(folder, "bert") is None


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


# Files of one's own -------------------------------------------------------------------------------


def write_files(folder: Path) -> tuple[Path, Path]:
    """Four users with three items each, one stray user, one duplicate row; texts of two items."""
    rows = [f"u{user},i{(user + step) % 4},{step}" for user in range(4) for step in range(3)]
    rows += ["u0,i0,0", "stray,rare,9"]
    (folder / "log.csv").write_text("\n".join(["user,item,time", *rows, ""]))
    items = ["item,title,genres", "i0,Red hat,Hats|Wool", "i1,Blue hat,Hats", "none,Unseen,x", ""]
    (folder / "items.csv").write_text("\n".join(items))
    return folder / "log.csv", folder / "items.csv"


def test_files_of_ones_own(tmp_path: Path) -> None:
    log, items = write_files(tmp_path)
    settings = PrepareSettings(interactions=str(log), items=str(items))
    manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert read_manifest(tmp_path / "mine") == manifest
    counted = {key: manifest[key] for key in ("users", "items", "interactions")}
    assert counted == {"users": 5, "items": 5, "interactions": 13}
    assert manifest["users_below_three"] == 1
    assert manifest["notes"] == {
        "layout": "table",
        "duplicates_dropped": 1,
        "items_without_metadata": 3,
        "items_without_title": 3,
        "items_without_brand": 5,
        "items_without_categories": 3,
        "items_without_description": 5,
    }
    assert [source["file"] for source in manifest["sources"]] == ["log.csv", "items.csv"]
    table = read_items(tmp_path / "mine", "mine").set_index("item_id")
    assert table.loc["i0", "categories"] == ["Hats", "Wool"]
    assert table["title"].to_dict()["i1"] == "Blue hat"
    assert set(table.index) == {"i0", "i1", "i2", "i3", "rare"}


def test_features_of_earlier_texts_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, items = write_files(tmp_path)
    settings = PrepareSettings(interactions=str(log), items=str(items))
    folder = tmp_path / "mine"
    prepare_files("mine", folder, settings, progress=False)
    save_features(folder, "text", "old", ["i0", "i1", "i2", "i3", "rare"], np.ones((5, 1)))
    prepare_files("mine", folder, settings, progress=False)
    assert "item texts" not in caplog.text
    rows = items.read_text().splitlines()
    items.write_text("\n".join([f"{rows[0]},image", *(f"{row},http://x/y" for row in rows[1:])]))
    prepare_files("mine", folder, settings, progress=False)
    assert read_items(folder, "mine")["image"].tolist() == ["http://x/y"] * 2 + [""] * 3
    assert "item texts" not in caplog.text  # addresses are none
    items.write_text("item,title\ni0,Green hat\n")
    prepare_files("mine", folder, settings, progress=False)
    assert "The item texts of 'mine' changed" in caplog.text
    assert "recbole-hellm encode --dataset=mine" in caplog.text


def test_a_k_core_of_ones_own(tmp_path: Path) -> None:
    log, items = write_files(tmp_path)
    settings = PrepareSettings(interactions=str(log), k_core=3)
    manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert (manifest["users"], manifest["items"], manifest["interactions"]) == (4, 4, 12)
    assert manifest["notes"] == {
        "layout": "table",
        "duplicates_dropped": 1,
        "k_core": 3,
        "interactions_before_k_core": 13,
    }
    assert not (tmp_path / "mine" / "mine.item").exists()  # so that nobody encodes empty texts
    with pytest.raises(DataError, match="left in the 4-core"):
        prepare_files(
            "mine",
            tmp_path / "mine",
            PrepareSettings(interactions=str(log), items=str(items), k_core=4),
            progress=False,
        )


def test_an_item_table_of_other_items_is_told(tmp_path: Path) -> None:
    log, items = write_files(tmp_path)
    items.write_text("item,title\nx,Hat\n")
    settings = PrepareSettings(interactions=str(log), items=str(items))
    with pytest.raises(DataError, match=r"items.csv has none of the 5 items of .*log.csv; correct"):
        prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["Beauty", "sample", "a/b", "..", "", "a\nb"])
def test_names_that_cannot_be_ones_own(tmp_path: Path, name: str) -> None:
    settings = PrepareSettings(interactions=str(write_files(tmp_path)[0]))
    with pytest.raises(ConfigError, match=r"another name|cannot name a folder"):
        prepare_files(name, tmp_path / "mine", settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"items": "x"}, "items needs --interactions=FILE"),
        ({"layout": "table", "time_column": "t"}, "time_column, layout needs --interactions"),
        ({"interactions": "x", "raw_dir": "y"}, "raw_dir is for datasets by name"),
        ({"interactions": "x", "layout": "amazon"}, "layout='amazon' is not allowed; use one of"),
        ({"k_core": -1}, "k_core=-1"),
        ({"k_core": "five"}, "k_core='five' must be of type int"),
    ],
)
def test_options_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareSettings.from_config(given)


def test_a_k_core_of_a_dataset_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(prepare, "prepare_amazon", lambda *_, **given: made.append(given["k_core"]))
    prepare.prepare_dataset("Beauty", tmp_path, k_core=7)
    assert made == [7]
    with pytest.raises(ConfigError, match="k_core is not for the sample"):
        prepare.prepare_dataset("sample", tmp_path, k_core=7)
