"""Reading of text files: one rule for byte order marks, encodings, sizes and kinds of files."""

from __future__ import annotations

import codecs
import io
import os
import stat
from pathlib import Path

from recbole_hellm.errors import ConfigError, HellmError

UTF8 = "utf-8"
SMALL = 1 << 26
"""The most bytes of a file that is read whole: settings, records, manifests."""


def check_encoding(encoding: str) -> None:
    """Check that Python knows an encoding of texts.

    Raises
    ------
    ConfigError
        If it does not.
    """
    try:
        "".encode(encoding)  # codecs.lookup accepts encodings of bytes, too
    except (LookupError, ValueError) as error:  # ValueError: a null character in the name
        raise ConfigError(
            f"There is no encoding {encoding!r}; use utf-8, latin-1 or another name that "
            "Python knows."
        ) from error


def without_mark(encoding: str) -> str:
    """The encoding that skips a byte order mark at the start of a file, where there is one."""
    return "utf-8-sig" if codecs.lookup(encoding).name == UTF8 else encoding


def marked_encoding(start: bytes, encoding: str = UTF8) -> str:
    """The encoding of a text by its byte order mark, where it has one.

    Parameters
    ----------
    start : bytes
        The first bytes of the text.
    encoding : str
        What is told of it. If that is not UTF-8, it is the answer.

    Returns
    -------
    str
        One that skips the mark.
    """
    if codecs.lookup(encoding).name == UTF8:
        if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            return "utf-32"
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
    return without_mark(encoding)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, which never blocks.

    Raises
    ------
    OSError
        If the file cannot be opened, or is a pipe, a socket or a device, on which reading could
        wait for ever.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "it is no regular file", str(path))
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def read_bytes(
    path: Path, error: type[HellmError], way_out: str = "check its name", limit: int = SMALL
) -> bytes:
    """Read a small file whole.

    Parameters
    ----------
    path : Path
    error : type
        What is raised.
    way_out : str
        The end of the sentence that is raised.
    limit : int
        The most bytes that are read.

    Raises
    ------
    HellmError
        If the file cannot be read, is no regular file, or is larger than `limit`.
    """
    try:
        with open_regular(Path(path)) as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as cause:  # ValueError: a null character in the name
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{path} cannot be read ({reason}); {way_out}.") from cause
    if len(content) > limit:
        raise error(f"{path} is larger than {limit >> 20} MiB; {way_out}.")
    return content


def read_text(
    path: Path,
    error: type[HellmError],
    way_out: str = "check its name",
    encoding: str = UTF8,
    limit: int = SMALL,
) -> str:
    """Read a small text file whole, without its byte order mark and with ``\\n`` line ends.

    Parameters
    ----------
    path, error, way_out, limit
        See :func:`read_bytes`.
    encoding : str
        Python's name of the encoding, whatever the locale.

    Raises
    ------
    HellmError
        If the file cannot be read, is too large, or is not text in `encoding`.
    """
    content = read_bytes(path, error, way_out, limit)
    try:
        text = content.decode(marked_encoding(content[:4], encoding))
    except UnicodeError as cause:
        raise error(f"{path} is not encoded in {encoding} ({cause}); {way_out}.") from cause
    return io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True)
