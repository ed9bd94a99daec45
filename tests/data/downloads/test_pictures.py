from __future__ import annotations

import io
import sys

import pytest
from PIL import Image

from recbole_hellm.data.downloads import picture_rules
from recbole_hellm.data.downloads.hosts import GivenUpError
from recbole_hellm.data.downloads.pictures import (
    PictureError,
    check_picture,
    is_placeholder,
    reason_of,
)
from recbole_hellm.data.downloads.retry import AttemptError


def picture(kind: str, width: int = 64, height: int = 64) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), 90).convert("RGB").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("GIF", ".gif")]
)
def test_the_content_decides_the_suffix(
    kind: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture(kind, 128, 128)
    assert check_picture(content) == suffix
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert check_picture(content) == suffix


@pytest.mark.parametrize(
    ("content", "reason", "kind"),
    [
        (b"", "not a picture", "spoilt"),
        (b"<html>", "not a picture", "spoilt"),
        (picture("BMP"), "not a picture", "spoilt"),
        (picture("PNG")[:200], "broken picture", "spoilt"),
        (picture("PNG", 9, 64), "placeholder", "final"),
        (picture("GIF", 16, 16), "placeholder", "final"),
    ],
)
def test_what_is_no_picture(content: bytes, reason: str, kind: str) -> None:
    with pytest.raises(PictureError, match=f"^{reason}$") as caught:
        check_picture(content)
    assert caught.value.kind == kind


def test_a_picture_of_absurd_size_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_rules, "MOST_PIXELS", 100)
    with pytest.raises(PictureError, match="too large"):
        check_picture(picture("PNG"))


def test_placeholders_are_known_by_their_address() -> None:
    assert is_placeholder("http://x/images/G/01/x-site/icons/no-img-sm._V1_.gif")
    assert not is_placeholder("http://x/images/I/71.jpg")


def test_reasons_in_the_words_of_the_manifest() -> None:
    assert reason_of(PictureError("too large", "final")) == "too large"
    assert reason_of(AttemptError("refused", "final", status=404)) == "HTTP 404"
    assert reason_of(AttemptError("reset")) == "broken connection"
    assert reason_of(AttemptError("refused", "unreachable")) == "unreachable"
    assert reason_of(GivenUpError("x: silent", "final")) == "unreachable"
