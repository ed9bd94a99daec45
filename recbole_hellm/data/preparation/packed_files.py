"""Read plain files, gzipped ones and members of zip archives alike.

The path ``ml-100k.zip/ml-100k/u.data`` names a member of the archive ``ml-100k.zip``.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from recbole_hellm.errors import DataError
from recbole_hellm.progress import progress_bar
from recbole_hellm.storage.text_files import UTF8, marked_encoding, open_regular, without_mark

_START = 1 << 16
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading its unpacked bytes; its content tells whether it is gzipped.

    Raises
    ------
    OSError, zipfile.BadZipFile
        If it cannot be opened.
    """
    archive = archive_of(path)
    if archive is not None:
        with zipfile.ZipFile(archive) as members:  # its file stays open until the member is closed
            try:
                return members.open(path.relative_to(archive).as_posix())
            except KeyError as error:
                raise FileNotFoundError(f"{archive.name} has no such member") from error
            except RuntimeError as error:  # a password, or an unknown compression
                raise zipfile.BadZipFile(str(error)) from error
    with open_regular(path) as file:
        gzipped = file.read(2) == b"\x1f\x8b" or path.suffix == ".gz"
    return gzip.open(path, "rb") if gzipped else open_regular(path)  # type: ignore[return-value]


def open_text(path: Path, encoding: str = UTF8) -> IO[str]:
    """Open a file for reading its unpacked text.

    A byte order mark is skipped, and tells of UTF-16. The first line end of the file says what its
    lines end with: a carriage return ends none where the first line ends with a line feed.

    Raises
    ------
    OSError, zipfile.BadZipFile
        If it cannot be opened.
    """
    with open_binary(path) as file:
        start = file.read(_START)
    encoding = marked_encoding(start, encoding)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start)
    end = next((mark for mark in text if mark in "\r\n"), "\n")
    plain = end == "\r" and "\r\n" not in text
    return io.TextIOWrapper(open_binary(path), encoding=encoding, newline="\r" if plain else "\n")


def not_encoded(
    path: Path, encoding: str, error: UnicodeError, line: int | None = None
) -> DataError:
    """The sentence on a file that is not text in an encoding."""
    where = path if line is None else f"{path}, line {line}"
    return DataError(
        f"{where} is not encoded in {encoding} ({error}); save it in UTF-8, or name its encoding, "
        "for example --encoding=cp1252 (Western Windows)."
    )


def numbered_lines(
    path: Path, progress: bool = True, encoding: str = UTF8
) -> Iterator[tuple[int, bytes]]:
    """Non-blank lines of a file in UTF-8, with their numbers from 1.

    Parameters
    ----------
    path : Path
    progress : bool
        Show a progress bar.
    encoding : str
        What the file is encoded in, unless a byte order mark tells it.

    Raises
    ------
    DataError
        If the file cannot be read to its end.
    """
    number = 0
    try:
        with _utf8_lines(path, encoding) as lines:
            bar = progress_bar(lines, show=progress, desc=path.name, unit=" lines", unit_scale=True)
            for number, line in enumerate(bar, start=1):
                if line.strip():
                    yield number, line
    except UnicodeError as error:
        raise not_encoded(path, encoding, error) from error
    except UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read beyond line {number} ({error}); download it again."
        ) from error


@contextlib.contextmanager
def _utf8_lines(path: Path, encoding: str) -> Iterator[Iterable[bytes]]:
    with open_binary(path) as file:
        start = file.read(4)
    if without_mark(encoding) == marked_encoding(start, encoding) == without_mark(UTF8):
        with open_binary(path) as file:
            yield file
    else:
        with open_text(path, encoding) as text:
            yield (line.encode("utf-8", "surrogatepass") for line in text)


def is_utf8(path: Path) -> bool:
    """Whether a file is text in UTF-8, as one that was converted is."""
    try:
        with open_text(path) as text:
            return all(line is not None for line in text)
    except UnicodeError:
        return False


def archive_of(path: Path) -> Path | None:
    """The zip archive of which `path` names a member, or None."""
    archives = (parent for parent in path.parents if parent.suffix.lower() == ".zip")
    return next((archive for archive in archives if archive.is_file()), None)


def member_of(archive: Path, name: str) -> Path:
    """Path of the file `name` in a zip archive, in whatever folder it lies there.

    Raises
    ------
    DataError
        If `archive` is not a zip archive, or has no such file.
    """
    try:
        with zipfile.ZipFile(archive) as members:
            matching = [member for member in members.namelist() if Path(member).name == name]
    except UNREADABLE as error:
        raise DataError(
            f"{archive} is not a complete zip archive ({error}); download it again."
        ) from error
    if not matching:
        raise DataError(f"{archive} has no file {name}; download it again.")
    return archive / min(matching, key=len)
