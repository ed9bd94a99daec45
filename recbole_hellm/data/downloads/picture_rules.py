"""What counts as an item's picture, and the names of what does not: one rule for all readers."""

from __future__ import annotations

import contextlib
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
SMALLEST_SIDE = 10  # pixels; a smaller picture is a spacer
MOST_PIXELS = 89_478_485  # 256 MiB in RGB, from where Pillow warns of decompression bombs
SMALLEST_GIF = 4 << 10  # bytes; a smaller one is a shop's "no image" (docs/method.md, Item images)
NOT_A_PICTURE, BROKEN, PLACEHOLDER, TOO_LARGE = (
    "not a picture",
    "broken picture",
    "placeholder",
    "too large",
)
LEADS_OUT = "outside its folder"  # a link, or a name in the item table, that leads elsewhere
# What Pillow raises for damaged files, beside its error for decompression bombs.
_UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError),
    *(struct.error, zlib.error, OverflowError),
)
_FILTERING = threading.Lock()  # filters of warnings belong to the process, not to a thread


class UnusablePictureError(Exception):
    """The content is no picture of an item; the message is one of the four reasons."""


def is_small_gif(kind: str | None, size: int) -> bool:
    """Whether a GIF has too few bytes to show an item; `kind` is Pillow's or a media type."""
    return kind in ("GIF", "image/gif") and size < SMALLEST_GIF


@contextlib.contextmanager
def decoded(source: Path | IO[bytes], size: int, small: bool = False) -> Iterator[Image.Image]:
    """Open and decode a picture with Pillow.

    Parameters
    ----------
    source : Path or binary file
    size : int
        Its size in bytes.
    small : bool
        Decode JPEG at a small scale, which is faster.

    Raises
    ------
    UnusablePictureError
        If it is no JPEG, PNG, GIF or WebP, is damaged, also where the block finds that, is a
        placeholder, or has more than :data:`MOST_PIXELS` pixels. Only a picture without the last
        two is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _FILTERING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(source, formats=FORMATS)
        with opened as image:
            if image.width * image.height > MOST_PIXELS:
                raise UnusablePictureError(TOO_LARGE)
            if min(image.size) < SMALLEST_SIDE or is_small_gif(image.format, size):
                raise UnusablePictureError(PLACEHOLDER)
            if small:
                image.draft("RGB", (SMALLEST_SIDE, SMALLEST_SIDE))
            image.load()
            yield image
    except UnidentifiedImageError as error:
        raise UnusablePictureError(NOT_A_PICTURE) from error
    except Image.DecompressionBombError as error:
        raise UnusablePictureError(TOO_LARGE) from error
    except _UNDECODABLE as error:
        raise UnusablePictureError(BROKEN) from error
