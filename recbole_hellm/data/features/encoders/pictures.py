"""Picture files as encoders see them: upright, in RGB, and none that stands for a missing one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_hellm.data.downloads.picture_rules import (
    BROKEN,
    NOT_A_PICTURE,
    TOO_LARGE,
    UnusablePictureError,
    decoded,
)
from recbole_hellm.errors import FeatureError
from recbole_hellm.storage.text_files import open_regular

if TYPE_CHECKING:
    from PIL import Image

NO_FILE = "no picture file"
LARGEST = 256 << 20  # bytes of a file, as many as its pixels may have in RGB


class PictureError(FeatureError):
    """A file shows no picture of an item; the message is :data:`NO_FILE` or a reason of
    :mod:`recbole_hellm.data.downloads.picture_rules`."""


def read_picture(path: Path) -> Image.Image:
    """Decode a picture file into upright RGB.

    Palettes, grey scales (of 16 bits, too) and CMYK are converted; transparency is dropped, as
    transformers' own processors do; the camera's orientation (EXIF) is applied; of an animation
    the first frame counts.

    Parameters
    ----------
    path : Path
        JPEG, PNG, WebP or GIF.

    Returns
    -------
    PIL.Image.Image
        In mode RGB.

    Raises
    ------
    PictureError
        If the file is missing, no picture, cut off, a placeholder (a small GIF, or less than
        ``SMALLEST_SIDE`` pixels wide or high), or too large: of more than ``MOST_PIXELS`` pixels or
        ``LARGEST`` bytes, which is found out before any of them is decoded.
    """
    from PIL import ImageOps

    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise PictureError(TOO_LARGE)
            with decoded(file, size) as image:
                return _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise PictureError(NO_FILE) from error
    except UnusablePictureError as error:
        raise PictureError(str(error)) from error
    except OSError as error:  # without a number: a pipe, a device or a folder
        raise PictureError(NOT_A_PICTURE if error.errno is None else BROKEN) from error


def broken_reason(path: Path | None) -> str | None:
    """Why a file shows no picture; None if it shows one."""
    if path is None:
        return NO_FILE
    try:
        read_picture(path)
    except PictureError as error:
        return str(error)
    return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which a plain conversion would clip to white
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    if "transparency" in image.info and image.mode != "RGBA":
        image = image.convert("RGBA")
    return image.convert("RGB")
