"""Download one file from the first of several addresses that gives it whole.

A file that is not complete is kept as ``<name>.part`` beside its place, with a note of what it is
part of (``<name>.part.json``), and is gone on with where the server lets us (RFC 9110, sections
13.1.5 and 14). Only a file that passed every check gets its name.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import os
import random
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import requests
import urllib3
from tqdm import tqdm

from recbole_hellm.data.downloads.retry import (
    BLOCK,
    AttemptError,
    attempting,
    content_length,
    refuse_errors,
)
from recbole_hellm.errors import DataError
from recbole_hellm.files import file_sha256

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class KnownFile:
    """What is known of a file before it comes.

    Attributes
    ----------
    bytes : int, optional
    sha256 : str, optional
    """

    bytes: int | None = None
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How long a download is tried.

    Attributes
    ----------
    attempts : int
        Requests per address; two where an address cannot be reached at all, or sends a file that
        fails its checks.
    first_wait, longest_wait : float
        Seconds before the second attempt and at most; the wait doubles each time, and a random
        half of it is left out so that many clients do not come back together.
    timeout : float
        Seconds without a byte after which a connection is given up.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 30.0

    def wait(self, failures: int, asked: float | None = None) -> float:
        """Seconds to wait after the `failures`-th failure; `asked` is the server's own wish."""
        longest = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        jittered = longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
        return min(self.longest_wait, max(jittered, asked or 0.0))


class DownloadError(DataError):
    """No address gave the file; the message lists what each of them did."""


def download(
    urls: Sequence[str],
    target: Path,
    known: KnownFile | None = None,
    progress: bool = True,
    retry_policy: RetryPolicy | None = None,
) -> Path:
    """Fetch `target` from the first of `urls` that gives it whole.

    Parameters
    ----------
    urls : sequence of str
        Addresses of the same file, in order of preference.
    target : Path
        Where it goes; created or replaced in one step once every check has passed. A name that
        ends in .gz is unpacked (to nowhere) as a check.
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
    known, retry_policy = known or KnownFile(), retry_policy or RetryPolicy()
    reasons = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with requests.Session() as session:
            for url in urls:
                partial = _Partial(target, url)

                def attempt(partial: _Partial = partial) -> None:
                    _transfer(session, partial, known, progress, retry_policy)
                    _check(partial, known)

                try:
                    retry(attempt, retry_policy)
                except AttemptError as failure:
                    times = f", {failure.attempts} times" if failure.attempts > 1 else ""
                    reason = f"{failure}{times}"
                else:
                    os.replace(partial.path, target)
                    partial.forget()
                    return target
                host = urllib3.util.parse_url(url)
                reasons.append(f"{host.scheme}://{host.netloc}: {reason}")
                logger.warning("%s gives no file: %s.", url, reason)
    except OSError as error:  # requests' own errors are told apart before this
        raise DataError(
            f"{target} cannot be written ({error.strerror or error}); make room or name another "
            "folder with --raw_dir."
        ) from error
    raise DownloadError(f"{target.name} cannot be downloaded ({'; '.join(reasons)}).")


class _Partial:
    """What has come of a file from one address so far."""

    def __init__(self, target: Path, url: str) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self._name, self._url = target.name, url

    def resumable(self) -> tuple[int, str]:
        """Bytes that are there and the validator that they belong to; (0, '') to start anew."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            size = self.path.stat().st_size
        except (OSError, ValueError):
            return 0, ""
        if not isinstance(note, dict) or note.get("url") != self._url:
            return 0, ""
        validator = note.get("validator")
        return (size, validator) if size and isinstance(validator, str) and validator else (0, "")

    def remember(self, validator: str) -> None:
        self._note.write_text(json.dumps({"url": self._url, "validator": validator}))

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _sleep(failure: AttemptError, seconds: float) -> None:
    logger.info("%s; again in %.1f s.", failure, seconds)
    time.sleep(seconds)


def retry(
    action: Callable[[], T],
    retry_policy: RetryPolicy,
    pause: Callable[[AttemptError, float], object] = _sleep,
) -> T:
    """Do `action` as often as it is worth.

    Parameters
    ----------
    action : callable
        One attempt; it raises :class:`AttemptError` where it fails.
    retry_policy : RetryPolicy
    pause : callable, optional
        Waits after a failure for a number of seconds.

    Returns
    -------
    object
        What `action` returned.

    Raises
    ------
    AttemptError
        The last one, with the number of attempts.
    """
    hopeless = {"unreachable": 2, "spoilt": 2, "final": 1, "again": retry_policy.attempts}
    counts = dict.fromkeys(hopeless, 0)
    attempt = 0
    while True:
        attempt += 1
        try:
            return action()
        except AttemptError as failure:
            counts[failure.kind] += 1
            if counts[failure.kind] >= hopeless[failure.kind] or attempt >= retry_policy.attempts:
                failure.attempts = attempt
                raise
            pause(failure, retry_policy.wait(attempt, failure.wait))


def _transfer(
    session: requests.Session,
    partial: _Partial,
    known: KnownFile,
    progress: bool,
    retry_policy: RetryPolicy,
) -> None:
    """One request: go on with what is there, or start anew where the server wants that."""
    done, validator = partial.resumable()
    # A compressed transfer would have other bytes, and so another size, than the file.
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    timeout = (retry_policy.timeout, retry_policy.timeout)
    with (
        attempting(),
        session.get(partial._url, headers=headers, stream=True, timeout=timeout) as response,
    ):
        if response.status_code == 416 and done:
            if _full_size(response) == done:
                return
            partial.forget()
            raise AttemptError("the part that was there does not fit (HTTP 416)")
        refuse_errors(response)
        offset = done if _continues(response, done) else 0
        total = _full_size(response) if offset else content_length(response)
        if known.bytes is not None and total is not None and total != known.bytes:
            reason = f"it offers {total:,} bytes where {known.bytes:,} are expected"
            raise AttemptError(reason, "final")
        partial.remember(_validator(response))
        _receive(response, partial.path, offset, total, progress)


def _receive(
    response: requests.Response, path: Path, offset: int, total: int | None, progress: bool
) -> None:
    """Append the body to the first `offset` bytes of `path`."""
    size = offset
    bar = tqdm(
        desc=path.name.removesuffix(".part"),
        initial=offset,
        total=total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not progress,
    )
    with bar, path.open("ab" if offset else "wb") as file:
        for block in response.raw.stream(BLOCK, decode_content=False):
            file.write(block)
            size += len(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and size != total:
        raise AttemptError(f"{size:,} of {total:,} bytes came")


def _check(partial: _Partial, known: KnownFile) -> None:
    """Size, checksum and gzip's own checksum; a file that fails is thrown away."""
    path = partial.path
    size = path.stat().st_size
    problem = ""
    if known.bytes is not None and size != known.bytes:
        problem = f"{size:,} bytes came where {known.bytes:,} are expected"
    elif known.sha256 is not None and file_sha256(path) != known.sha256.lower():
        problem = "what came has another SHA-256 than the file should"
    elif partial._name.endswith(".gz"):
        problem = _gzip_problem(path)
    if problem:
        partial.forget()
        raise AttemptError(problem, "spoilt")


def _gzip_problem(path: Path) -> str:
    try:
        with gzip.open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f"what came is no whole gzip file ({error})"
    return ""


def _continues(response: requests.Response, done: int) -> bool:
    """Whether the body begins at byte `done`; a 200 is the whole file again."""
    if response.status_code != 206:
        return False
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    if unit != "bytes" or not done or rest.partition("-")[0] != str(done):
        raise AttemptError("the server sent another part than the one asked for", "spoilt")
    return True


def _full_size(response: requests.Response) -> int | None:
    """The whole file's size from ``Content-Range: bytes 5-9/10`` or ``bytes */10``."""
    size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isascii() and size.isdigit() else None


def _validator(response: requests.Response) -> str:
    """What If-Range may name: a strong entity tag, else the date of the last change."""
    tag = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    return "" if tag else response.headers.get("Last-Modified", "")
