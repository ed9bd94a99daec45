"""Picture features beside plain calls of transformers."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_hellm.data.features.encoders import (
    BatchEncoder,
    VisionEncoder,
    encode_images,
    image,
    resolve_image_encoder,
)
from recbole_hellm.data.features.encoders.pictures import (
    NO_FILE,
)
from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.data.features.store import load_features, save_features
from recbole_hellm.errors import FeatureError

pytest.importorskip("PIL")
from PIL import Image
from support.pictures import BAD, content, noise

CLIP_PROCESSOR = {  # as openai/clip-vit-base-patch32 has it, for pictures of 32 pixels
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "CLIPImageProcessor",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A dataset with five sound pictures, every bad one, and an item without."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    for seed in range(5):
        (folder / f"images/p{seed}.png").write_bytes(content(noise(seed)))
    for token, (data, _) in BAD.items():
        (folder / f"images/{token}.jpg").write_bytes(data)
    tokens = ["p0", "p1", *BAD, "nothing", "p2", "p3", "p4"]
    (folder / "shop.item").write_text("\n".join(["item_id:token", *tokens, ""]))
    return folder


def encode(folder: Path, encoder: str | Path, images: Path | None = None, **options: Any) -> Path:
    tokens = (folder / "shop.item").read_text().split()[1:]
    metadata = ItemMetadata.read(folder, "shop", images=images)
    return encode_images(folder, tokens, metadata, str(encoder), progress=False, **options)


def reference(folder: Path, seeds: Sequence[int]) -> np.ndarray:
    """CLIP's projected features in float64, one picture at a time."""
    from transformers import AutoImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(folder, dtype=torch.float64).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    rows = []
    for seed in seeds:
        pixels = processor(images=noise(seed), return_tensors="pt")["pixel_values"].double()
        with torch.no_grad():
            states = model.vision_model(pixel_values=pixels)
            rows.append(model.visual_projection(states.pooler_output)[0])
    return torch.stack(rows).numpy()


# --- vectors ----------------------------------------------------------------------------------


def test_clip_gives_projected_features(tiny_clip: Path, shop: Path) -> None:
    encoder = VisionEncoder(str(tiny_clip))
    assert isinstance(encoder, BatchEncoder)
    assert encoder.name == "tiny-clip"
    files = [shop / f"images/p{seed}.png" for seed in range(5)]
    found = encoder.encode_batch(files)
    assert found.shape == (5, 12) and found.dtype == np.float32
    np.testing.assert_allclose(found, reference(tiny_clip, range(5)), atol=1e-5)
    alone = np.concatenate([encoder.encode_batch([file]) for file in files])
    np.testing.assert_allclose(alone, found, rtol=1e-6, atol=1e-6)


def test_the_processor_is_clips(tiny_clip: Path) -> None:
    """Shorter side to 32 by bicubic, centre, normalised: by Pillow and hand."""
    encoder = VisionEncoder(str(tiny_clip))
    encoder._loaded = encoder._load()
    small = noise(3, (48, 40)).resize((38, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(small, dtype=np.float64)[:, 3:35] / 255
    expected = (expected - encoder._loaded[1].image_mean) / encoder._loaded[1].image_std
    found = encoder._processed(noise(3, (48, 40))).numpy()
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "vit without pooler", "dinov2", "convnext", "siglip"])
def test_other_vision_models(kind: str, tiny_clip: Path, tmp_path: Path) -> None:
    import transformers

    tower: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    torch.manual_seed(2)
    model: Any
    if kind.startswith("vit"):
        config = transformers.ViTConfig(**tower)
        model = transformers.ViTModel(config, add_pooling_layer=kind == "vit")
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**tower))
    elif kind == "convnext":
        sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32}
        model = transformers.ConvNextModel(transformers.ConvNextConfig(**sizes))
    else:
        config = transformers.SiglipConfig(
            text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
            vision_config=tower,
        )
        model = transformers.SiglipModel(config)
    model.eval().save_pretrained(tmp_path)
    shutil.copy(tiny_clip / "preprocessor_config.json", tmp_path)
    (tmp_path / "a.png").write_bytes(content(noise(0)))
    encoder = VisionEncoder(str(tmp_path))
    found = encoder.encode_batch([tmp_path / "a.png"])
    pixels = encoder._processed(noise(0))[None]
    with torch.no_grad():
        if kind == "siglip":
            expected = model.vision_model(pixel_values=pixels).pooler_output
        elif kind == "vit without pooler":  # AutoModel adds one, of noise
            expected = model(pixel_values=pixels).last_hidden_state[:, 0]
        else:
            expected = model(pixel_values=pixels).pooler_output.flatten(1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_the_papers_encoder(monkeypatch: pytest.MonkeyPatch, tiny_clip: Path) -> None:
    asked = []
    monkeypatch.setattr(image, "model_folder", lambda told: asked.append(told.name) or tiny_clip)
    encoder = resolve_image_encoder("clip", 7)
    assert (encoder.name, encoder.batch_size) == ("clip", 7)
    assert asked == ["openai/clip-vit-base-patch32"]


# --- encoding a dataset -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_items_without_a_usable_picture_get_the_mean(
    tiny_clip: Path, shop: Path, batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        path = encode(shop, tiny_clip, batch_size=batch_size)
    assert path == shop / "features/image-tiny-clip.npy"
    good, bad = [f"p{seed}" for seed in range(5)], [*BAD, "nothing"]
    expected = reference(tiny_clip, range(5))
    found = load_features(shop, [*good, *bad])["image"].matrix
    np.testing.assert_allclose(found[:5], expected, atol=1e-5)
    np.testing.assert_allclose(found[5:], np.tile(expected.mean(axis=0), (10, 1)), atol=1e-5)
    np.testing.assert_array_equal(found[5:], np.tile(found[5], (10, 1)))
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["missing"] == bad
    reasons = {token: reason for token, (_, reason) in BAD.items()} | {"nothing": NO_FILE}
    assert manifest["details"]["missing_reasons"] == reasons
    assert manifest["details"]["batch_size"] == batch_size
    assert manifest["revision"] == VisionEncoder(str(tiny_clip)).revision
    assert "10 of 15 items have no usable picture and get the mean" in caplog.text
    assert "3 not a picture, 3 placeholder, 2 broken picture" in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_links_out_and_huge_files_are_named(
    tiny_clip: Path, shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for token in BAD:
        (shop / f"images/{token}.jpg").unlink()
    os.mkfifo(shop / "images/html.jpg")
    (tmp_path / "secret.png").write_bytes(content(noise(9)))
    (shop / "images/empty.jpg").symlink_to(tmp_path / "secret.png")
    (shop / "images/cut.jpg").symlink_to("/dev/zero")
    with (shop / "images/cutpng.png").open("wb") as file:
        file.truncate(1 << 40)
    tokens = (shop / "shop.item").read_text().split()[1:]
    named = {"header": "../../secret.png"}
    rows = [f"{token}\t{named.get(token, '')}" for token in tokens]
    (shop / "shop.item").write_text("\n".join(["item_id:token\timage:token", *rows, ""]))
    metadata = ItemMetadata.read(shop, "shop")
    path = encode_images(shop, tokens, metadata, str(tiny_clip), progress=False)
    reasons = json.loads(path.with_suffix(".json").read_text())["details"]["missing_reasons"]
    assert {token: reasons[token] for token in ("html", "empty", "cut", "cutpng", "header")} == {
        "html": "not a picture",
        "empty": "outside its folder",
        "cut": "outside its folder",
        "cutpng": "too large",
        "header": "outside its folder",
    }
    assert "3 outside its folder" in caplog.text
    assert path == encode_images(shop, tokens, metadata, str(tiny_clip), progress=False)


def test_current_features_are_kept_and_stale_ones_made_again(
    tiny_clip: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked = VisionEncoder.encode_batch, []

    def spy(self: VisionEncoder, inputs: Sequence[Path]) -> Any:
        asked.append(len(inputs))
        return original(self, inputs)

    monkeypatch.setattr(VisionEncoder, "encode_batch", spy)
    path = encode(shop, tiny_clip)
    encode(shop, tiny_clip)
    assert asked == [14]
    (shop / "images/p0.png").write_bytes(content(noise(9)))
    encode(shop, tiny_clip)
    (shop / "images/nothing.png").write_bytes(content(noise(8)))
    encode(shop, tiny_clip)
    encode(shop, tiny_clip, force=True)
    assert asked == [14, 14, 15, 15]
    assert "nothing" not in json.loads(path.with_suffix(".json").read_text())["missing"]


def test_going_on_after_an_interruption(
    tiny_clip: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(shop, tiny_clip, batch_size=4).read_bytes()
    original, calls = VisionEncoder.encode_batch, [0]

    def dying(self: VisionEncoder, inputs: Sequence[Path]) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return original(self, inputs)

    monkeypatch.setattr(VisionEncoder, "encode_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        encode(shop, tiny_clip, batch_size=4, force=True)
    path = encode(shop, tiny_clip, batch_size=4, force=True)
    assert calls[0] == 5  # four batches, of which the last one died once
    assert path.read_bytes() == whole
    assert not path.with_suffix(".partial").exists()


def test_pictures_from_a_folder_and_from_the_item_table(tiny_clip: Path, shop: Path) -> None:
    more = shop.parent / "more"
    (more / "deep").mkdir(parents=True)
    (more / "p0.jpg").write_bytes(content(noise(7)))  # before the dataset's own
    (more / "deep/x.bin").write_bytes(content(noise(8)))
    rows = ["item_id:token\timage:token", "p0\t", "p1\tdeep/x.bin", "p2\t", "p3\t../shop.item"]
    (shop / "shop.item").write_text("\n".join([*rows, ""]))
    metadata = ItemMetadata.read(shop, "shop", images=more)
    path = encode_images(shop, ["p0", "p1", "p2", "p3"], metadata, str(tiny_clip), progress=False)
    np.testing.assert_allclose(np.load(path), reference(tiny_clip, [7, 8, 2, 3]), atol=1e-5)


# --- what can be wrong ------------------------------------------------------------------------


def test_no_usable_picture(tiny_clip: Path, shop: Path) -> None:
    for file in shop.glob("images/p*.png"):
        file.unlink()
    with pytest.raises(FeatureError, match=r"None of the 15 items .* \(6 no picture file, 3 not"):
        encode(shop, tiny_clip)
    shutil.rmtree(shop / "images")
    with pytest.raises(FeatureError, match=r"there is no picture file.*with --images\.$"):
        encode(shop, tiny_clip)
    assert not (shop / "features/image-tiny-clip.npy").exists()


def test_models_that_are_no_vision_models(
    tiny_bert: Path, tiny_clip: Path, tmp_path: Path, shop: Path
) -> None:
    with pytest.raises(FeatureError, match=r"^Image encoder .* has no image processor"):
        encode(shop, tiny_bert)
    both = Path(shutil.copytree(tiny_bert, tmp_path / "both"))
    shutil.copy(tiny_clip / "preprocessor_config.json", both)
    with pytest.raises(FeatureError, match=r"\(bert\) makes no vector of a picture .*name a visi"):
        encode(shop, both)
    with pytest.raises(FeatureError, match="is a folder without config"):
        encode(shop, shop)


def test_damaged_weights(tiny_clip: Path, tmp_path: Path, shop: Path) -> None:
    copy = Path(shutil.copytree(tiny_clip, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FeatureError, match=r"has damaged files .*leave --image_encoder out"):
        encode(shop, copy)


def test_without_pillow(monkeypatch: pytest.MonkeyPatch, tiny_clip: Path) -> None:
    monkeypatch.setattr(image.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        FeatureError, match=r"needs the package pillow.*pip install 'recbole-hellm\[image\]'"
    ):
        VisionEncoder(str(tiny_clip))


def test_no_code_of_a_model_is_run(scripted: Path) -> None:
    with pytest.raises(FeatureError) as error:
        resolve_image_encoder(str(scripted)).encode_batch([scripted / "none.png"])
    assert str(error.value) == (
        f"Image encoder {scripted} needs code of its own, which is not run; name another model, or "
        "leave --image_encoder out."
    )


def test_pictures_of_another_origin_are_kept(tiny_clip: Path, shop: Path) -> None:
    tokens = (shop / "shop.item").read_text().split()[1:]
    path = save_features(shop, "image", "tiny-clip", tokens, np.ones((len(tokens), 2)))
    before = path.read_bytes()
    with pytest.raises(FeatureError, match=r"tiny-clip\.npy came from elsewhere.*--force"):
        encode(shop, tiny_clip)
    assert path.read_bytes() == before
    encode(shop, tiny_clip, force=True)
    assert path.read_bytes() != before


def test_the_name_of_the_papers_model_is_not_taken(tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    assert resolve_image_encoder(str(folder)).name == "clip-model"


def proportional(folder: Path) -> None:
    facts = CLIP_PROCESSOR | {"do_center_crop": False, "size": {"shortest_edge": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    """A convolutional network takes what a processor that keeps proportions gives."""
    from transformers import ConvNextConfig, ConvNextModel

    folder = tmp_path / "convnext"
    sizes = {"hidden_sizes": [8, 8, 8, 12], "depths": [1, 1, 1, 1]}
    ConvNextModel(ConvNextConfig(**sizes)).save_pretrained(folder)
    proportional(folder)
    files = [tmp_path / f"{row}.png" for row in range(5)]
    for row, size in enumerate([(40, 40), (80, 40), (40, 80), (40, 40), (80, 40)]):
        files[row].write_bytes(content(noise(row, size)))
    files.insert(2, tmp_path / "none.png")
    found = VisionEncoder(str(folder)).encode_batch(files)
    assert found.shape == (6, 12) and np.isnan(found).all(axis=1).tolist() == [0, 0, 1, 0, 0, 0]
    alone = [VisionEncoder(str(folder), batch_size=1).encode_batch([file])[0] for file in files]
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-6)


def test_sizes_that_a_model_does_not_take(tiny_clip: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_clip, tmp_path / "wide"))
    proportional(folder)
    (tmp_path / "a.png").write_bytes(content(noise(1, (40, 40))))
    (tmp_path / "b.png").write_bytes(content(noise(2, (80, 40))))
    with pytest.raises(FeatureError, match=r"wide \(clip\) makes no vector of a picture \(.*size"):
        VisionEncoder(str(folder)).encode_batch([tmp_path / "a.png", tmp_path / "b.png"])


def test_a_model_that_does_not_fit(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    encoder = VisionEncoder(str(tiny_clip))
    monkeypatch.setattr("transformers.CLIPModel.to", full)
    with pytest.raises(FeatureError, match="does not fit into the GPU's memory"):
        encoder.encode_batch([])
