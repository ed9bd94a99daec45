"""Picture files as encoders see them, and every file that is no picture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from recbole_hellm.data.downloads import picture_rules
from recbole_hellm.data.downloads import pictures as fetched
from recbole_hellm.data.downloads.picture_rules import NOT_A_PICTURE, TOO_LARGE
from recbole_hellm.data.features.encoders.pictures import (
    NO_FILE,
    PictureError,
    broken_reason,
    read_picture,
)

pytest.importorskip("PIL")
from PIL import Image
from support.pictures import BAD, bomb, content, noise


def test_modes_become_rgb(tmp_path: Path) -> None:
    source = noise(4)
    red = Image.new("RGB", (20, 20), (255, 0, 0))
    shades = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    see_through = red.quantize(4)
    see_through.info["transparency"] = bytes([255, 0, 0, 0])
    made = {
        "plain.png": content(source),
        "rgba.png": content(source.convert("RGBA")),
        "palette.png": content(red.quantize(4)),
        "palette-with-alpha.png": content(see_through, transparency=bytes([255, 0, 0, 0])),
        "cmyk.jpg": content(red.convert("CMYK"), "JPEG"),
        "grey.png": content(source.convert("L")),
        "grey-and-alpha.png": content(source.convert("LA")),
        "grey16.png": content(Image.fromarray(shades)),
        "bits.png": content(source.convert("1")),
        "lossless.webp": content(source, "WEBP", lossless=True),
        "large.gif": content(noise(5, (200, 200)), "GIF"),
    }
    pictures = {}
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
        pictures[name] = read_picture(tmp_path / name)
        assert pictures[name].mode == "RGB", name
    for name in ("plain.png", "rgba.png", "lossless.webp"):
        np.testing.assert_array_equal(pictures[name], source)
    for name in ("palette.png", "palette-with-alpha.png", "cmyk.jpg"):
        assert np.abs(np.asarray(pictures[name], dtype=int)[5, 5] - [255, 0, 0]).max() < 4, name
    np.testing.assert_array_equal(pictures["grey.png"], source.convert("L").convert("RGB"))
    np.testing.assert_allclose(np.asarray(pictures["grey16.png"])[..., 0], shades / 256, atol=1)


def test_the_cameras_orientation_is_applied(tmp_path: Path) -> None:
    source = noise(6, (20, 12))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held at a right angle
    (tmp_path / "a.png").write_bytes(content(source, exif=exif))
    np.testing.assert_array_equal(
        read_picture(tmp_path / "a.png"), source.transpose(Image.Transpose.ROTATE_270)
    )


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture(tmp_path: Path, name: str) -> None:
    data, reason = BAD[name]
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(PictureError) as error:
        read_picture(tmp_path / "a.jpg")
    assert str(error.value) == reason == broken_reason(tmp_path / "a.jpg")
    assert broken_reason(None) == broken_reason(tmp_path / "b.jpg") == NO_FILE


def test_a_picture_is_never_decoded_beyond_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(noise(0))
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(picture_rules, "MOST_PIXELS", 48 * 40 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    assert broken_reason(tmp_path / "a.png") == TOO_LARGE
    with pytest.raises(fetched.PictureError, match=TOO_LARGE):
        fetched.check_picture(data)


@pytest.mark.parametrize("side", [9_460, 12_000, 30_000])  # beyond what Pillow warns of, or refuses
def test_fetching_and_encoding_agree_on_what_is_too_large(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, side: int
) -> None:
    (tmp_path / "a.png").write_bytes(bomb(side))
    with pytest.raises(fetched.PictureError, match=TOO_LARGE):
        fetched.check_picture(bomb(side))
    assert broken_reason(tmp_path / "a.png") == TOO_LARGE
    assert [warning for warning in recwarn if "exceeds limit" in str(warning.message)] == []


def test_pillows_own_warning_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 40 - 1)
    (tmp_path / "a.png").write_bytes(content(noise(0)))
    assert broken_reason(tmp_path / "a.png") is None
    assert fetched.check_picture(content(noise(0))) == ".png"
    assert not recwarn


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_and_what_is_huge(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(content(noise(1)))
        file.truncate(1 << 40)  # takes no place on the disk
    reasons = {name: broken_reason(tmp_path / name) for name in ("pipe.jpg", "folder.jpg")}
    assert set(reasons.values()) == {NOT_A_PICTURE}
    assert broken_reason(tmp_path / "huge.png") == TOO_LARGE
    assert broken_reason(Path("/dev/zero")) == NOT_A_PICTURE
