"""One picture from an address, fetched completely and checked."""

from __future__ import annotations

import io
import time

import requests

from recbole_hellm.data.downloads.picture_rules import (
    BROKEN,
    NOT_A_PICTURE,
    PLACEHOLDER,
    SMALLEST_GIF,
    SMALLEST_SIDE,
    TOO_LARGE,
    UNDECODABLE,
    open_picture,
)
from recbole_hellm.data.downloads.retry import BLOCK, AttemptError, byte_count, check_status, get
from recbole_hellm.data.features.item_metadata import picture_kind

LARGEST = 20 << 20  # bytes
LONGEST = 120.0  # seconds for one transfer, even if bytes come all the time
SUFFIX_OF = {f"image/{kind}": f".{kind}" for kind in ("png", "gif", "webp")} | {
    "image/jpeg": ".jpg"
}
_NO_PICTURE = "/x-site/icons/no-img"  # in the path of Amazon's own placeholders


class PictureError(AttemptError):
    """The content is no picture of an item; the message is a reason in `picture_rules`."""


def reason_of(error: AttemptError) -> str:
    """Why there is no picture, in the words of the manifest."""
    if isinstance(error, PictureError):
        return str(error)
    if error.status is not None:
        return f"HTTP {error.status}"
    return "broken connection" if error.kind == "again" else "unreachable"


def is_placeholder(address: str) -> bool:
    """Whether the picture at an address says that there is none."""
    return _NO_PICTURE in address


def receive(session: requests.Session, address: str, timeout: float) -> bytes:
    """Fetch the complete body at an address, in one attempt.

    Parameters
    ----------
    session : requests.Session
    address : str
    timeout : float
        Seconds without a byte after which the connection is given up.

    Raises
    ------
    AttemptError
        If it does not arrive completely within :data:`LONGEST` seconds.
    PictureError
        If it is larger than :data:`LARGEST` bytes.
    """
    # With a compressed transfer the bytes would not be those of the picture.
    headers = {"Accept-Encoding": "identity"}
    deadline = time.monotonic() + LONGEST
    content = bytearray()
    with get(session, address, headers=headers, timeout=timeout) as response:
        check_status(response)
        if (byte_count(response.headers.get("Content-Length")) or 0) > LARGEST:
            raise PictureError(TOO_LARGE, "final")
        # read1 returns what has arrived; read and stream would wait for a whole block.
        while block := response.raw.read1(BLOCK, decode_content=False):
            content += block
            if len(content) > LARGEST:
                raise PictureError(TOO_LARGE, "final")
            if time.monotonic() > deadline:
                raise AttemptError(f"it takes more than {LONGEST:.0f} s")
    return bytes(content)


def check_picture(content: bytes) -> str:
    """The file suffix for a picture, by its content.

    Pillow decodes the picture. Without Pillow the first bytes decide.

    Raises
    ------
    PictureError
        If it is no JPEG, PNG, GIF or WebP, is cut off, has too many pixels, or is a placeholder.
    """
    kind = picture_kind(content[:12])
    if kind is None:
        raise PictureError(NOT_A_PICTURE, "spoilt")
    if kind == "image/gif" and len(content) < SMALLEST_GIF:
        raise PictureError(PLACEHOLDER, "final")
    try:
        from PIL import Image
    except ImportError:
        return SUFFIX_OF[kind]
    try:
        with open_picture(io.BytesIO(content)) as image:
            sides = image.size
            image.draft("RGB", (SMALLEST_SIDE, SMALLEST_SIDE))  # decodes JPEG faster
            image.load()
    except Image.DecompressionBombError as error:
        raise PictureError(TOO_LARGE, "final") from error
    except UNDECODABLE as error:
        raise PictureError(BROKEN, "spoilt") from error
    if min(sides) < SMALLEST_SIDE:
        raise PictureError(PLACEHOLDER, "final")
    return SUFFIX_OF[kind]
