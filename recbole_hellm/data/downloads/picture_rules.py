"""What counts as an item's picture, and the words for what does not: one rule for all readers."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
SMALLEST_SIDE = 10  # pixels; less is a spacer
MOST_PIXELS = 89_478_485  # 256 MiB in RGB, from where Pillow warns of decompression bombs
SMALLEST_GIF = 4 << 10  # bytes; less is a shop's "no image" (docs/method.md, Item images)
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
_QUIET = threading.Lock()  # warnings' filters are the process's, and readers work in threads


def open_picture(source: Path | IO[bytes]) -> Image.Image:
    """Open a picture with Pillow, of which nothing is decoded yet.

    Raises
    ------
    PIL.Image.DecompressionBombError
        If it has more than :data:`MOST_PIXELS` pixels; there is no warning before.
    """
    from PIL import Image

    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(source, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise Image.DecompressionBombError(TOO_LARGE)
    return image
