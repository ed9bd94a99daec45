"""One picture from an address, fetched completely and checked."""

from __future__ import annotations

import importlib.util
import io
import time

import requests

from recbole_hellm.data.downloads import picture_rules as rules
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
    deadline = time.monotonic() + LONGEST
    content = bytearray()
    with get(session, address, timeout) as response:
        check_status(response)
        if (byte_count(response.headers.get("Content-Length")) or 0) > LARGEST:
            raise PictureError(rules.TOO_LARGE, "final")
        # read1 returns what has arrived; read and stream would wait for a whole block.
        while block := response.raw.read1(BLOCK, decode_content=False):
            content += block
            if len(content) > LARGEST:
                raise PictureError(rules.TOO_LARGE, "final")
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
        raise PictureError(rules.NOT_A_PICTURE, "spoilt")
    if rules.is_small_gif(kind, len(content)):
        raise PictureError(rules.PLACEHOLDER, "final")
    if importlib.util.find_spec("PIL") is not None:
        try:
            with rules.decoded(io.BytesIO(content), len(content), small=True):
                pass
        except rules.UnusablePictureError as error:
            damaged = str(error) in (rules.NOT_A_PICTURE, rules.BROKEN)
            raise PictureError(str(error), "spoilt" if damaged else "final") from error
    return SUFFIX_OF[kind]
