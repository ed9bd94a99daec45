"""The command ``encode``: what it is told, and texts and pictures through it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.data.features import encoding
from recbole_hellm.data.features.encoders.text import named_features
from recbole_hellm.data.features.encoding import EncodeSettings, encode_dataset, ensure_features
from recbole_hellm.data.features.store import list_features, load_features, save_features
from recbole_hellm.errors import ConfigError, DataError, FeatureError

pytest.importorskip("PIL")
from PIL import Image

TOKENS = ["a", "b", "c", "d"]


@pytest.fixture
def shop(tmp_path: Path) -> list[str]:
    """Options for a dataset of four items, three of them with a picture."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    rows = [f"{token}\tred {token} lipstick" for token in TOKENS]
    table = ["item_id:token\ttitle:token_seq", *rows, ""]
    (folder / "shop.item").write_text("\n".join(table))
    for shade, token in enumerate(TOKENS[:3]):
        Image.new("RGB", (40, 40), (80 * shade, 20, 200)).save(folder / f"images/{token}.png")
    return ["--dataset=shop", f"--data_path={tmp_path}"]


def stored(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "shop/features").glob("*.npy"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "auto"),
        ({"text_encoder": "bert"}, "bert"),
        ({"image_encoder": "clip"}, None),
        ({"image_encoder": "clip", "text_encoder": "auto"}, "auto"),
        ({"image_encoder": "clip", "text_encoder": "none"}, None),
    ],
)
def test_which_texts_are_encoded(options: dict[str, Any], expected: str | None) -> None:
    assert EncodeSettings(**options).texts == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encode_batch": 0}, "encode_batch=0 must be at least 1"),
        ({"images": "x"}, "images is for pictures; add an encoder"),
        ({"text_encoder": "none"}, "leaves nothing to encode"),
        ({"image_encoder": "clip", "text_pooling": "cls"}, "text_pooling is for texts"),
        ({"text_encoder": "bert", "text_pooling": "max"}, "text_pooling='max' is not allowed"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        EncodeSettings(**options)


def test_pictures_alone_then_both(
    shop: list[str], tiny_clip: Path, tiny_bert: Path, tmp_path: Path, capsys: Any
) -> None:
    pictures = f"--image_encoder={tiny_clip}"
    assert main(["encode", *shop, pictures]) == 0
    assert capsys.readouterr().out.strip().endswith("shop/features/image-tiny-clip.npy")
    assert stored(tmp_path) == ["image-tiny-clip.npy"]
    options = [f"--text_encoder={tiny_bert}", "--text_pooling=cls", "--encode_batch=2"]
    assert main(["encode", *shop, pictures, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in lines] == ["text-tiny-bert-cls.npy", "image-tiny-clip.npy"]
    assert list(load_features(tmp_path / "shop", TOKENS)) == ["image", "text"]
    manifest = json.loads((tmp_path / "shop/features/image-tiny-clip.json").read_text())
    assert manifest["details"]["missing_reasons"] == {"d": "no picture file"}


def test_a_folder_of_pictures(
    shop: list[str], tiny_clip: Path, tmp_path: Path, capsys: Any
) -> None:
    Image.new("RGB", (40, 40), "green").save(tmp_path / "d.jpg")
    options = [f"--image_encoder={tiny_clip}", f"--images={tmp_path}"]
    assert main(["encode", *shop, *options]) == 0
    path = tmp_path / "shop/features/image-tiny-clip"
    assert json.loads(path.with_suffix(".json").read_text())["missing"] == []
    assert len(np.unique(np.load(path.with_suffix(".npy")), axis=0)) == 4
    capsys.readouterr()
    assert main(["encode", *shop, options[0], f"--images={tmp_path}/none"]) == 2
    assert "none is not a folder; correct its name" in capsys.readouterr().err
    (tmp_path / "shop/shop.item").unlink()
    assert main(["encode", *shop, options[0]]) == 2
    assert "it is not known which items there are" in capsys.readouterr().err


def test_the_device_reaches_both_encoders(
    shop: list[str], tiny_clip: Path, tiny_bert: Path, tmp_path: Path, capsys: Any
) -> None:
    texts, pictures = f"--text_encoder={tiny_bert}", f"--image_encoder={tiny_clip}"
    for options in ([texts], [pictures]):
        assert main(["encode", *shop, *options, "--device=gpu"]) == 2
        assert "device='gpu' is not known; use auto, cpu, cuda" in capsys.readouterr().err
    assert stored(tmp_path) == []
    assert main(["encode", *shop, texts, pictures, "--device=cpu"]) == 0
    for name in ("text-tiny-bert", "image-tiny-clip"):
        manifest = json.loads((tmp_path / f"shop/features/{name}.json").read_text())
        assert manifest["details"]["precision"] == "float32 on cpu"


def test_names_stay_texts(shop: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked = []
    monkeypatch.setattr(
        encoding, "encode_dataset", lambda *given, **_: asked.append(given) or Path("x")
    )
    assert main(["encode", *shop, "--text_encoder", "007"]) == 0
    assert main(["encode", "--dataset=2018", "--text_encoder=no"]) == 0
    assert [given[0] for given in asked] == ["shop", "2018"]
    assert [given[2] for given in asked] == ["007", "no"]
    assert main(["encode", *shop, "--text_encodr=bert"]) == 2
    assert "did you mean text_encoder" in capsys.readouterr().err


def test_an_interrupted_encoding_says_how_to_go_on(
    shop: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(encoding, "encode_dataset", interrupt)
    assert main(["encode", *shop]) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err


# Features of a run -------------------------------------------------------------------------------

HATS = """item_id:token\ttitle:token_seq
a\tred wool hat
b\tblue wool hat
c\tred silk scarf
d\tblue silk scarf
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.item").write_text(HATS)
    return folder


class Config(dict[str, Any]):
    """As much of a configuration as is read."""

    @property
    def dataset_directory(self) -> Path:
        return Path(self["data_path"]) / self["dataset"]


def config(folder: Path, **overrides: Any) -> Config:
    options = {"features": None, "text_encoder": "auto", "device": "cpu"}
    return Config(data_path=str(folder.parent), dataset=folder.name, **options | overrides)


def feature_names(folder: Path) -> list[str]:
    return [info.name for info in list_features(folder)]


def test_texts_are_encoded_once(folder: Path) -> None:
    ensure_features(config(folder, text_encoder="tfidf"))
    assert feature_names(folder) == ["text-tfidf"]
    path = folder / "features/text-tfidf.npy"
    before = path.stat().st_mtime_ns
    ensure_features(config(folder, text_encoder="tfidf"))
    ensure_features(config(folder))  # auto takes the text features that are there
    assert path.stat().st_mtime_ns == before
    assert feature_names(folder) == ["text-tfidf"]


def test_an_encoder_that_is_named_is_run_beside_others(folder: Path) -> None:
    save_features(folder, "text", "mine", ["a", "b", "c", "d"], np.ones((4, 1)))
    ensure_features(config(folder))
    assert feature_names(folder) == ["text-mine"]
    ensure_features(config(folder, text_encoder="tfidf"))
    assert feature_names(folder) == ["text-mine", "text-tfidf"]


@pytest.mark.parametrize("details", [{}, {"requested_encoder": "m/TFIDF", "template": "{title}"}])
def test_features_of_another_origin_are_kept(folder: Path, details: dict[str, Any]) -> None:
    tokens = ["a", "b", "c", "d"]
    path = save_features(folder, "text", "tfidf", tokens, np.ones((4, 1)), details)
    before = path.read_bytes()
    with pytest.raises(FeatureError) as caught:
        ensure_features(config(folder, text_encoder="tfidf"))
    told = str(caught.value)
    assert told.startswith(f"{path} ") and told.endswith("--features='[text-tfidf]'.")
    assert "--force" in told and "--encoder name" in told
    assert path.read_bytes() == before
    encode_dataset("shop", folder, "tfidf", force=True, progress=False)
    assert path.read_bytes() != before
    ensure_features(config(folder, text_encoder="tfidf"))


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
    ensure_features(config(folder, text_encoder="tfidf"))
    assert path.read_bytes() != before


def test_a_named_encoder_chooses_its_own_features(folder: Path) -> None:
    for name in ("text-mine", "text-tfidf", "text-bert-model", "image-mine"):
        save_features(folder, *name.split("-", 1), list("abcd"), np.ones((4, 1)))
    assert named_features(folder, "auto") is None
    assert named_features(folder, "tfidf") == ["image-mine", "text-tfidf"]
    assert named_features(folder, "m/BERT/") == ["image-mine", "text-bert-model"]
    assert named_features(folder, "bert") is None


def test_named_features_need_no_encoding(folder: Path) -> None:
    ensure_features(config(folder, features=["image-clip"]))
    assert feature_names(folder) == []


def test_neither_texts_nor_features_is_told(folder: Path) -> None:
    (folder / "shop.item").unlink()
    with pytest.raises(FeatureError, match=r"'shop' has neither item texts \(shop.item\) nor"):
        ensure_features(config(folder))
    with pytest.raises(DataError, match=r"shop.item is missing, so there is no text"):
        encode_dataset("shop", folder)
    save_features(folder, "image", "mine", ["a"], np.ones((1, 1)))
    ensure_features(config(folder))  # an image is enough
