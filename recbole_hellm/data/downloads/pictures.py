"""One picture from an address: fetched whole, checked, and put in its place in one step."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from pathlib import Path

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
from recbole_hellm.data.downloads.retry import (
    BLOCK,
    AttemptError,
    attempting,
    content_length,
    refuse_errors,
)
from recbole_hellm.data.features.item_metadata import picture_kind

LARGEST = 20 << 20  # bytes
LONGEST = 120.0  # seconds for one transfer, however steadily its bytes come
SUFFIX_OF = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
}
_NO_PICTURE = "/x-site/icons/no-img"  # in the path of Amazon's own placeholders


class PictureError(AttemptError):
    """What came is no picture of an item; the message is one of the reasons in `picture_rules`."""


def reason_of(error: AttemptError) -> str:
    """Why there is no picture, in the words of the manifest."""
    if isinstance(error, PictureError):
        return str(error)
    if error.status is not None:
        return f"HTTP {error.status}"
    return "broken connection" if error.kind == "again" else "unreachable"


def is_placeholder(address: str) -> bool:
    """Whether an address is that of a picture that says that there is none."""
    return _NO_PICTURE in address


def receive(session: requests.Session, address: str, timeout: float) -> bytes:
    """The whole body at an address, once.

    Parameters
    ----------
    session : requests.Session
    address : str
    timeout : float
        Seconds without a byte after which the connection is given up.

    Raises
    ------
    AttemptError
        If it does not come whole within :data:`LONGEST` seconds.
    PictureError
        If it is larger than :data:`LARGEST` bytes.
    """
    # A compressed transfer would have other bytes than the picture.
    headers = {"Accept-Encoding": "identity"}
    until = time.monotonic() + LONGEST
    with (
        attempting(),
        session.get(address, headers=headers, stream=True, timeout=timeout) as response,
    ):
        refuse_errors(response)
        blocks, size = [], 0
        if (content_length(response) or 0) > LARGEST:
            raise PictureError(TOO_LARGE, "final")
        # What is there, where read and stream would wait for a whole block.
        while block := response.raw.read1(BLOCK, decode_content=False):
            blocks.append(block)
            size += len(block)
            if size > LARGEST:
                raise PictureError(TOO_LARGE, "final")
            if time.monotonic() > until:
                raise AttemptError(f"it takes more than {LONGEST:.0f} s")
        return b"".join(blocks)


def check_picture(content: bytes) -> str:
    """The suffix for a picture's file, by its content.

    With Pillow, the picture is decoded; without it, its first bytes decide.

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
            image.draft("RGB", (SMALLEST_SIDE, SMALLEST_SIDE))  # JPEG: decoded in less time
            image.load()
    except Image.DecompressionBombError as error:
        raise PictureError(TOO_LARGE, "final") from error
    except UNDECODABLE as error:
        raise PictureError(BROKEN, "spoilt") from error
    if min(sides) < SMALLEST_SIDE:
        raise PictureError(PLACEHOLDER, "final")
    return SUFFIX_OF[kind]


def store(content: bytes, target: Path) -> None:
    """Write a file that nobody sees before it is whole."""
    staged = target.with_name(f".{os.getpid()}-{threading.get_ident()}.part")
    with staged.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, target)


def clear_away(folder: Path, age: float = 3600.0) -> None:
    """Remove what a killed process left of :func:`store`; another one's files are younger."""
    for staged in folder.glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):  # another process put it in its place
            if staged.stat().st_mtime < time.time() - age:
                staged.unlink()
