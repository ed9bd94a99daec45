from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from recbole_hellm.data.downloads import picture_rules
from recbole_hellm.data.downloads.picture_rules import open_picture


def saved(kind: str) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (20, 10)).save(file, kind)
    file.seek(0)
    return file


def test_pictures_are_opened_from_files_and_streams(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(saved("PNG").getvalue())
    for source in (tmp_path / "a", saved("JPEG"), saved("GIF"), saved("WEBP")):
        with open_picture(source) as image:
            assert image.size == (20, 10)


def test_other_formats_are_not_opened() -> None:
    with pytest.raises(UnidentifiedImageError):
        open_picture(saved("BMP"))


def test_a_bomb_is_refused_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_rules, "MOST_PIXELS", 199)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)  # Pillow itself would warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombError, match="too large"):
            open_picture(saved("PNG"))
        monkeypatch.setattr(picture_rules, "MOST_PIXELS", 200)
        open_picture(saved("PNG")).close()
