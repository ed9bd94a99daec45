"""Pictures of a dataset's items, fetched from the addresses in its item table.

They go to ``<dataset directory>/images``. Each is named by its item token
(:func:`recbole_hellm.data.features.item_metadata.file_stem`) with the suffix of its content. Beside
them, ``manifest.json`` records why an item has no picture:

- ``items``, ``pictures``, ``not_tried``: how many there are;
- ``reasons``: how many items lack a picture for each reason;
- ``missing``: by item token, ``reason``, ``address`` and possibly ``detail``.

A later call goes on: it fetches the pictures that are neither there nor gone for good.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import pydantic
import requests
from typing_extensions import NotRequired, TypedDict

from recbole_hellm.config.settings import setting
from recbole_hellm.data.downloads import hosts, picture_rules, pictures
from recbole_hellm.data.downloads.retry import AttemptError, RetryPolicy, retry
from recbole_hellm.data.features.item_metadata import (
    IMAGE_COLUMNS,
    IMAGES,
    SUFFIXES,
    ItemMetadata,
    file_stem,
)
from recbole_hellm.data.interactions.atomic_files import AtomicSettings, read_items
from recbole_hellm.data.preparation.manifest import MANIFEST
from recbole_hellm.errors import DataError
from recbole_hellm.progress import progress_bar
from recbole_hellm.storage.checksums import check_seal, sealed
from recbole_hellm.storage.files import remove_leftovers, write_bytes
from recbole_hellm.storage.json_files import read_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
LARGEST_MANIFEST = 1 << 31  # bytes
NO_ADDRESS, NOT_HTTP, NO_NAME = (
    "no address",
    "no http or https address",
    "token too long for a file",
)
# Not asked for again unless `retry_missing`.
GONE = frozenset(
    [
        *("HTTP 404", "HTTP 410"),
        *(picture_rules.NOT_A_PICTURE, picture_rules.PLACEHOLDER, picture_rules.TOO_LARGE),
    ]
)
RETRY_POLICY = RetryPolicy(attempts=4, first_wait=0.5, longest_wait=30.0, timeout=20.0)
_SAVE_EVERY = 5.0  # seconds at least between two manifests,
_SAVE_SHARE = 20  # and at least so many times as long as writing one takes
_LONGEST_NAME = 255  # bytes, on every file system in use


class ImageSettings(AtomicSettings):
    """How pictures are fetched."""

    workers: int = setting(8, "Pictures that are fetched at once.", ge=1, le=64)
    retry_missing: bool = setting(False, "Ask again for pictures that were gone for good.")


class _Entry(TypedDict):
    """Why an item has no picture."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    reason: str
    address: NotRequired[str]
    detail: NotRequired[str]


class _Manifest(TypedDict):
    """What is read of a manifest of pictures."""

    __pydantic_config__ = pydantic.ConfigDict(extra="allow")  # type: ignore[misc]

    format_version: Literal[1]
    missing: dict[str, _Entry]


@dataclasses.dataclass(frozen=True)
class ImageCounts:
    """How many items have a picture now, had one before, or have none; the manifest's path."""

    fetched: int
    present: int
    reasons: Mapping[str, int]
    manifest: Path

    def describe(self) -> str:
        """A summary for people."""
        missing = sum(self.reasons.values())
        first = f"Pictures: {self.fetched:,} fetched, {self.present:,} already there, "
        rows = [f"  {count:>9,}  {reason}" for reason, count in self.reasons.items()]
        return "\n".join([f"{first}{missing:,} missing", *rows, f"Manifest: {self.manifest}"])


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """Why an item has no picture (None if it has one), and whether its host answered."""

    token: str
    address: str
    reason: str | None = None
    detail: str = ""
    answered: bool = True


def fetch_images(
    name: str,
    directory: Path,
    settings: ImageSettings | None = None,
    progress: bool = True,
    retry_policy: RetryPolicy = RETRY_POLICY,
) -> ImageCounts:
    """Fetch the missing pictures of a dataset's items.

    Parameters
    ----------
    name, directory : str, Path
        The dataset's name and its folder with ``<name>.item``.
    settings : ImageSettings, optional
    progress : bool
        Show pictures, rate and time left.
    retry_policy : RetryPolicy
        How often an address is tried.

    Returns
    -------
    ImageCounts

    Raises
    ------
    DataError
        If there is no item table or no address in it, nothing could be reached, or files cannot
        be written. Pictures that were fetched stay in any case.
    """
    settings = settings or ImageSettings()
    addresses = _addresses(name, directory, settings)
    folder = directory / IMAGES
    try:
        record = _Record(folder / MANIFEST, addresses)
        record.sort(ItemMetadata({}, {}, (folder, directory), addresses), settings.retry_missing)
        if not record.wanted and not any(addresses.values()) and record.missing:
            raise DataError(
                f"None of the {len(addresses):,} items of '{name}' has the address of a picture in "
                f"{directory / f'{name}.item'}; prepare it with --items=FILE that has a column "
                f"'{IMAGE_COLUMNS[0]}', or put pictures into {folder}."
            )
        remove_leftovers(folder)
        try:
            _fetch_all(record, name, settings.workers, progress, retry_policy)
        finally:
            record.save()
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror or error}); make room or correct its "
            "permissions."
        ) from error
    return ImageCounts(record.fetched, record.present, record.reasons(), record.path)


def _addresses(name: str, directory: Path, settings: AtomicSettings) -> dict[str, str]:
    """The address of each item's picture in the item table, or ''."""
    items = read_items(directory, name, settings)
    column = next((key for key in IMAGE_COLUMNS if key in items), None)
    addresses = [""] * len(items) if column is None else items[column]
    return dict(zip(items["item_id"], addresses, strict=True))


class _Record:
    """Which pictures are there, wanted and missing, and the manifest of them."""

    def __init__(self, path: Path, addresses: Mapping[str, str]) -> None:
        self.path, self.addresses = path, addresses
        self.missing: dict[str, dict[str, str]] = {}
        self.wanted: list[str] = []
        self.present = self.fetched = 0
        self._next_save = 0.0

    def sort(self, metadata: ItemMetadata, retry_missing: bool) -> None:
        """Sort the items into those that are there, missing and wanted."""
        before = self._read()
        for token, address in self.addresses.items():
            if metadata.picture(token):
                self.present += 1
                continue
            reason = _reason_not_to_ask(token, address)
            if reason is None and metadata.leads_out(token):
                reason = picture_rules.LEADS_OUT  # what people put there is not replaced
            if reason is not None:
                self.add(_Outcome(token, address, reason))
                continue
            earlier = before.get(token)
            if earlier is not None and earlier.get("address") == address:
                self.missing[token] = earlier  # until there is a new outcome
                if earlier["reason"] in GONE and not retry_missing:
                    continue
            self.wanted.append(token)

    def add(self, outcome: _Outcome) -> None:
        """Record the outcome for an item."""
        earlier = self.missing.pop(outcome.token, None)
        if outcome.reason is None:
            self.fetched += 1
        elif earlier is not None and earlier["reason"] in GONE and not outcome.answered:
            self.missing[outcome.token] = earlier  # silence tells nothing new
        else:
            entry = {"reason": outcome.reason, "address": outcome.address, "detail": outcome.detail}
            self.missing[outcome.token] = {key: value for key, value in entry.items() if value}

    def reasons(self) -> dict[str, int]:
        """Items without a picture by reason, most frequent first."""
        return dict(Counter(entry["reason"] for entry in self.missing.values()).most_common())

    def save(self) -> None:
        """Write the manifest."""
        pictures = self.present + self.fetched
        content = {
            "format_version": FORMAT_VERSION,
            "items": len(self.addresses),
            "pictures": pictures,
            "not_tried": len(self.addresses) - pictures - len(self.missing),
            "reasons": self.reasons(),
            "missing": {token: self.missing[token] for token in sorted(self.missing)},
        }
        text = json.dumps(sealed(content), indent=1, ensure_ascii=False) + "\n"
        write_bytes(self.path, text.encode(), sync=True)

    def save_at_times(self) -> None:
        """Write the manifest unless it was written a short time ago."""
        start = time.monotonic()
        if start >= self._next_save:
            self.save()
            end = time.monotonic()
            self._next_save = end + max(_SAVE_EVERY, _SAVE_SHARE * (end - start))

    def _read(self) -> dict[str, dict[str, str]]:
        """The missing items of the manifest of an earlier call."""
        if not os.path.lexists(self.path):
            return {}
        way_out = "delete it and run the same command again"
        content = read_json(self.path, _Manifest, DataError, way_out, LARGEST_MANIFEST)
        check_seal(content, self.path, DataError, way_out)
        missing: dict[str, dict[str, str]] = content["missing"]
        return missing


def _reason_not_to_ask(token: str, address: str) -> str | None:
    if not address:
        return NO_ADDRESS
    if not address.lower().startswith(("http://", "https://")):
        return NOT_HTTP
    if pictures.is_placeholder(address):
        return picture_rules.PLACEHOLDER
    longest = max(map(len, SUFFIXES))
    return NO_NAME if len(file_stem(token).encode()) + longest > _LONGEST_NAME else None


def _fetch_all(
    record: _Record, name: str, workers: int, progress: bool, retry_policy: RetryPolicy
) -> None:
    fetcher = _Fetcher(record.path.parent, retry_policy)
    jobs = [(token, record.addresses[token]) for token in record.wanted]
    bar = progress_bar(show=progress, desc=name, total=len(jobs), unit=" pictures")
    # ThreadPoolExecutor would wait at exit for threads that wait for a silent host. These threads
    # are daemons, so an interrupt ends the program at once.
    with bar, ThreadPool(workers) as pool:
        try:
            for outcome in pool.imap_unordered(fetcher, jobs):
                if outcome is None:
                    continue
                record.add(outcome)
                record.save_at_times()
                bar.set_postfix(missing=len(record.missing), refresh=False)
                bar.update()
        finally:
            fetcher.stop.set()
    known = fetcher.hosts
    # If an earlier call fetched pictures, a few failures are no sign of a missing network.
    enough = known.failures >= hosts.DEAD_AFTER or (known.failures and not record.present)
    if enough and not known.answered:
        raise DataError(
            f"No picture of '{name}' could be reached ({known.trouble}); run the same "
            "command again with a network connection. No picture was recorded as gone."
        )


class _Fetcher:
    """Fetches one picture per call, in any thread, until `stop` is set."""

    def __init__(self, folder: Path, retry_policy: RetryPolicy) -> None:
        self.hosts, self.stop = hosts.Hosts(retry_policy), threading.Event()
        self._folder, self._retry_policy = folder, retry_policy
        self._local = threading.local()

    def __call__(self, job: tuple[str, str]) -> _Outcome | None:
        """The outcome for an item's token and address; None if there is no network."""
        if self.hosts.offline:
            return None
        token, address = job
        attempt = functools.partial(self._attempt, address)
        try:
            content, suffix = retry(attempt, self._retry_policy, self._pause)
        except AttemptError as failure:
            reason, detail = pictures.reason_of(failure), str(failure)
            if isinstance(failure, hosts.GivenUpError):
                return _Outcome(token, address, reason, detail, answered=False)
            answered = isinstance(failure, pictures.PictureError) or failure.status is not None
            self.hosts.note_item(address, answered, detail)
            return _Outcome(token, address, reason, "" if answered else detail, answered)
        self.hosts.note_item(address, True, "")
        write_bytes(self._folder / f"{file_stem(token)}{suffix}", content, sync=True)
        return _Outcome(token, address)

    def _attempt(self, address: str) -> tuple[bytes, str]:
        self.hosts.wait(address, self.stop.wait)
        try:
            content = pictures.receive(self._session(), address, self._retry_policy.timeout)
        except AttemptError as failure:
            self.hosts.note_attempt(address, failure)
            raise
        self.hosts.note_attempt(address, None)
        return content, pictures.check_picture(content)

    def _session(self) -> requests.Session:
        """The session of this thread, since threads cannot safely share one."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.headers["User-Agent"] = "recbole-hellm"
        return self._local.session

    def _pause(self, failure: AttemptError, seconds: float) -> None:
        # Every attempt waits for a busy host itself, in `_attempt`.
        if failure.status not in hosts.BUSY and self.stop.wait(seconds):
            raise failure
