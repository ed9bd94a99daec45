"""What counts as an item's picture, and the names of what does not: one rule for all readers."""

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
SMALLEST_SIDE = 10  # pixels; a smaller picture is a spacer
MOST_PIXELS = 89_478_485  # 256 MiB in RGB, from where Pillow warns of decompression bombs
SMALLEST_GIF = 4 << 10  # bytes; a smaller one is a shop's "no image" (METHOD 1.5)
NOT_A_PICTURE, BROKEN, PLACEHOLDER, TOO_LARGE = (
    "not a picture",
    "broken picture",
    "placeholder",
    "too large",
)
# What Pillow raises for damaged files, beside its error for decompression bombs.
UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError),
    *(struct.error, zlib.error, OverflowError),
)
_FILTERING = threading.Lock()  # filters of warnings belong to the process, not to a thread


def open_picture(source: Path | IO[bytes]) -> Image.Image:
    """Open a picture with Pillow; nothing is decoded yet.

    Raises
    ------
    PIL.Image.DecompressionBombError
        If it has more than :data:`MOST_PIXELS` pixels.
    """
    from PIL import Image

    with _FILTERING, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(source, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise Image.DecompressionBombError(TOO_LARGE)
    return image
