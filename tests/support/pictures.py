"""Sound pictures of noise, and files that are no usable picture."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from recbole_hellm.data.downloads.picture_rules import (
    BROKEN,
    NOT_A_PICTURE,
    PLACEHOLDER,
    TOO_LARGE,
)


def noise(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def content(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few hundred bytes that says it has `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


BAD = {
    "html": (b"<html>404</html>", NOT_A_PICTURE),
    "empty": (b"", NOT_A_PICTURE),
    "cut": (content(noise(1), "JPEG")[:-200], BROKEN),
    "cutpng": (content(noise(1))[:1500], BROKEN),
    "header": (content(noise(1), "JPEG")[:20], NOT_A_PICTURE),
    "dot": (content(Image.new("RGB", (1, 1))), PLACEHOLDER),
    "line": (content(Image.new("RGB", (300, 2))), PLACEHOLDER),
    "gif": (content(Image.new("P", (60, 40)), "GIF"), PLACEHOLDER),
    "bomb": (bomb(), TOO_LARGE),
}
