from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import pytest
from PIL import Image

from recbole_hellm.data.downloads import picture_rules
from recbole_hellm.data.downloads.picture_rules import UnusablePictureError, decoded, is_small_gif


def saved(kind: str, width: int = 80, height: int = 60) -> bytes:
    file = io.BytesIO()
    noise = os.urandom(3 * width * height)
    Image.frombytes("RGB", (width, height), noise).save(file, kind)
    return file.getvalue()


def reason(content: bytes) -> str:
    with (
        pytest.raises(UnusablePictureError) as caught,
        decoded(io.BytesIO(content), len(content)),
    ):
        pass
    return str(caught.value)


def test_pictures_are_read_from_files_and_streams(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        content = saved(kind)
        (tmp_path / "a").write_bytes(content)
        for source in (tmp_path / "a", io.BytesIO(content)):
            with decoded(source, len(content)) as image:
                assert image.size == (80, 60)
                image.getpixel((0, 0))


def test_jpeg_can_be_decoded_small() -> None:
    content = saved("JPEG", 160, 160)
    with decoded(io.BytesIO(content), len(content), small=True) as image:
        assert image.size == (20, 20)


def test_why_a_picture_is_unusable() -> None:
    assert reason(b"<html>") == "not a picture"
    assert reason(saved("BMP")) == "not a picture"
    assert reason(saved("PNG")[:-40]) == "broken picture"
    assert reason(saved("PNG", 9, 60)) == "placeholder"
    assert reason(saved("GIF", 20, 20)) == "placeholder"


def test_what_the_block_finds_damaged_is_broken() -> None:
    def use() -> None:
        with decoded(io.BytesIO(saved("PNG")), 1):
            raise ValueError("bad metadata")

    with pytest.raises(UnusablePictureError, match="broken picture"):
        use()


def test_a_bomb_is_refused_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved("PNG", 20, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)  # Pillow itself would warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with decoded(io.BytesIO(content), len(content)):
            pass
        monkeypatch.setattr(picture_rules, "MOST_PIXELS", 199)
        assert reason(content) == "too large"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # and here it would raise
    assert reason(content) == "too large"


def test_small_gifs() -> None:
    assert is_small_gif("GIF", 4095)
    assert is_small_gif("image/gif", 4095)
    assert not is_small_gif("GIF", 4096)
    assert not is_small_gif("image/png", 10)
    assert not is_small_gif(None, 10)
