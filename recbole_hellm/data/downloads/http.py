"""Download one file from the first of several addresses that gives it complete.

An incomplete file is kept as ``<name>.part`` beside its place, with a note of its origin in
``<name>.part.json``. The next attempt resumes it if the server allows that (RFC 9110, sections
13.1.5 and 14). Only a file that passed every check gets its name.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import requests
import urllib3

from recbole_hellm.data.downloads.retry import (
    BLOCK,
    AttemptError,
    RetryPolicy,
    byte_count,
    check_status,
    get,
    retry,
)
from recbole_hellm.errors import DataError
from recbole_hellm.progress import progress_bar
from recbole_hellm.storage.checksums import file_sha256
from recbole_hellm.storage.files import write_text
from recbole_hellm.storage.json_files import read_json

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class KnownFile:
    """Size in bytes and SHA-256 of a file, as far as they are known before the download."""

    bytes: int | None = None
    sha256: str | None = None


class DownloadError(DataError):
    """No address gave the file; the message lists the reason for each of them."""


def download(
    urls: Sequence[str],
    target: Path,
    known: KnownFile | None = None,
    progress: bool = True,
    retry_policy: RetryPolicy | None = None,
) -> Path:
    """Fetch `target` from the first of `urls` that gives it complete.

    Parameters
    ----------
    urls : sequence of str
        Addresses of the same file, in order of preference.
    target : Path
        Created or replaced in one step after every check has passed. If its name ends in .gz,
        unpacking it is one of the checks.
    known : KnownFile, optional
        Size and checksum to check against.
    progress : bool
        Show bytes, rate and time left.
    retry_policy : RetryPolicy, optional

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    DownloadError
        If no address gave the file.
    DataError
        If it cannot be written.
    """
    retry_policy = retry_policy or RetryPolicy()
    reasons = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with requests.Session() as session:
            for url in urls:
                transfer = _Transfer(
                    url, target, known or KnownFile(), session, retry_policy.timeout, progress
                )
                try:
                    retry(transfer.attempt, retry_policy)
                except AttemptError as failure:
                    times = f", {failure.attempts} times" if failure.attempts > 1 else ""
                    host = urllib3.util.parse_url(url)
                    reasons.append(f"{host.scheme}://{host.netloc}: {failure}{times}")
                    logger.warning("%s gives no file: %s%s.", url, failure, times)
                else:
                    os.replace(transfer.part, target)
                    transfer.discard()
                    return target
    except OSError as error:  # `retry.get` has caught the errors of the connection
        raise DataError(
            f"{target} cannot be written ({error.strerror or error}); make room or name another "
            "folder with --raw_dir."
        ) from error
    raise DownloadError(f"{target.name} cannot be downloaded ({'; '.join(reasons)}).")


@dataclasses.dataclass
class _Transfer:
    """The transfer of a file from one address into its .part file."""

    url: str
    target: Path
    known: KnownFile
    session: requests.Session
    timeout: float
    progress: bool

    def __post_init__(self) -> None:
        self.part = self.target.with_name(f"{self.target.name}.part")
        self.note = self.target.with_name(f"{self.target.name}.part.json")

    def attempt(self) -> None:
        """Fetch and check the file, or raise :class:`AttemptError`."""
        self._fetch()
        problem = self._problem()
        if problem:
            self.discard()
            raise AttemptError(problem, "spoilt")

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _resumable(self) -> tuple[int, str]:
        """The size of the .part file and the validator of its version; (0, '') to start anew."""
        try:
            note = read_json(self.note, dict[str, str], DataError, "it is made anew")
            size = self.part.stat().st_size
        except (OSError, DataError):  # none, or not by this module
            return 0, ""
        fits = note.get("url") == self.url and note.get("validator")
        return (size, note["validator"]) if fits else (0, "")

    def _fetch(self) -> None:
        """One request, for the rest of the file if the server has the same version of it."""
        size, validator = self._resumable()
        headers = {"Range": f"bytes={size}-", "If-Range": validator} if size else {}
        with get(self.session, self.url, self.timeout, headers) as response:
            span = response.headers.get("Content-Range", "")  # bytes 5-9/10 or bytes */10
            full_size = byte_count(span.rpartition("/")[2])
            if response.status_code == 416 and size:
                if full_size == size:
                    return
                self.discard()
                raise AttemptError("the existing part does not fit (HTTP 416)")
            check_status(response)
            if response.status_code != 206:  # the whole file
                size, full_size = 0, byte_count(response.headers.get("Content-Length"))
            elif not size or not span.startswith(f"bytes {size}-"):
                raise AttemptError("the server sent the wrong part", "spoilt")
            if self.known.bytes is not None and full_size not in (None, self.known.bytes):
                reason = f"it offers {full_size:,} bytes where {self.known.bytes:,} are expected"
                raise AttemptError(reason, "final")
            if not size:  # before the note changes, which would lend the old part its validator
                self.part.unlink(missing_ok=True)
            write_text(self.note, json.dumps({"url": self.url, "validator": _validator(response)}))
            self._receive(response, size, full_size)

    def _receive(self, response: requests.Response, size: int, full_size: int | None) -> None:
        """Write the body behind the first `size` bytes of the .part file."""
        bar = progress_bar(
            show=self.progress,
            desc=self.target.name,
            initial=size,
            total=full_size,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
        )
        with bar, self.part.open("ab" if size else "wb") as file:
            for block in response.raw.stream(BLOCK, decode_content=False):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        if full_size is not None and size != full_size:
            raise AttemptError(f"only {size:,} of {full_size:,} bytes arrived")

    def _problem(self) -> str:
        """What is wrong with the complete file: its size, its SHA-256 or gzip's own checksum."""
        size = self.part.stat().st_size
        if self.known.bytes is not None and size != self.known.bytes:
            return f"it has {size:,} bytes where {self.known.bytes:,} are expected"
        if self.known.sha256 is not None and file_sha256(self.part) != self.known.sha256.lower():
            return "the content has the wrong SHA-256"
        if self.target.name.endswith(".gz"):
            try:
                with gzip.open(self.part) as file:
                    while file.read(1 << 20):
                        pass
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                return f"the content is not a complete gzip file ({error})"
        return ""


def _validator(response: requests.Response) -> str:
    """What If-Range may name: a strong entity tag, or else the date of the last change."""
    tag = response.headers.get("ETag", "")
    if tag:
        return "" if tag.startswith("W/") else tag
    return response.headers.get("Last-Modified", "")
