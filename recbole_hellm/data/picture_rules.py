"""What counts as an item's picture, and the words for what does not: one rule for all readers."""

from __future__ import annotations

import struct
import zlib

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
SMALLEST_SIDE = 10  # pixels; less is a spacer
SMALLEST_GIF = 4 << 10  # bytes; less is a shop's "no image" (METHOD 1.5)
NOT_A_PICTURE, BROKEN, PLACEHOLDER, TOO_LARGE = (
    "not a picture",
    "broken picture",
    "placeholder",
    "too large",
)
UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError),
    *(struct.error, zlib.error, OverflowError),
)
"""What Pillow raises for damaged files, beside its errors for bombs."""
