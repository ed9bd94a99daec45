"""Pictures of a dataset's items, fetched from the addresses in its item table.

They go to ``<dataset directory>/images``, each named by its item token
(:func:`recbole_hellm.data.features.item_metadata.file_stem`) with the suffix of its content. Beside
them ``manifest.json`` says of every item without a picture why it has none:

- ``items``, ``pictures``, ``not_tried``: how many there are;
- ``reasons``: how many items lack a picture for which reason;
- ``missing``: by item token, ``reason``, ``address`` and, where it says more, ``detail``.

A later call goes on: it fetches what is neither there nor gone for good.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import requests
from tqdm import tqdm

from recbole_hellm.config.settings import Settings, require
from recbole_hellm.data.downloads import hosts, pictures
from recbole_hellm.data.downloads.http import RetryPolicy, retry
from recbole_hellm.data.downloads.retry import AttemptError
from recbole_hellm.data.downloads.threads import in_threads
from recbole_hellm.data.features.item_metadata import (
    IMAGE_COLUMNS,
    IMAGES,
    SUFFIXES,
    ItemMetadata,
    file_stem,
)
from recbole_hellm.data.preparation.atomic import read_items
from recbole_hellm.data.preparation.manifest import MANIFEST
from recbole_hellm.errors import DataError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
NO_ADDRESS, NOT_HTTP, NO_NAME = (
    "no address",
    "no http or https address",
    "token too long for a file",
)
# Not asked for again unless `retry_missing`.
GONE = frozenset(
    ["HTTP 404", "HTTP 410", pictures.NOT_A_PICTURE, pictures.PLACEHOLDER, pictures.TOO_LARGE]
)
RETRY_POLICY = RetryPolicy(attempts=4, first_wait=0.5, longest_wait=30.0, timeout=20.0)
_SAVE_EVERY = 5.0  # seconds between two manifests, at least,
_SAVE_SHARE = 20  # and so many times as long as it takes to write one
_LONGEST_NAME = 255  # bytes, on every file system in use


@dataclasses.dataclass(frozen=True)
class ImageSettings(Settings):
    """How pictures are fetched.

    Attributes
    ----------
    workers : int
        Pictures that are fetched at once.
    retry_missing : bool
        Ask again for what was gone for good.
    """

    workers: int = 8
    retry_missing: bool = False

    def validate(self) -> None:
        """Check the number of workers.

        Raises
        ------
        ConfigError
            If it is not from 1 to 64.
        """
        require(1 <= self.workers <= 64, f"workers={self.workers} must be from 1 to 64.")


@dataclasses.dataclass(frozen=True)
class ImageCounts:
    """What became of a dataset's pictures: items by state, and the manifest's path."""

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
    """Of one item: why there is no picture (None if there is one), and whether its host answered;
    None if it was not asked."""

    token: str
    address: str
    reason: str | None = None
    detail: str = ""
    answered: bool | None = True


def fetch_images(
    name: str,
    directory: Path,
    settings: ImageSettings | None = None,
    progress: bool = True,
    retry_policy: RetryPolicy = RETRY_POLICY,
) -> ImageCounts:
    """Fetch the pictures of a dataset's items that are not there.

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
        be written. What was fetched stays in any case.
    """
    settings = settings or ImageSettings()
    addresses = _addresses(name, directory)
    folder = directory / IMAGES
    try:
        record = _Record(folder / MANIFEST, addresses, settings.retry_missing)
        record.sort_out(ItemMetadata({}, {}, (folder, directory), addresses))
        if not record.wanted and not any(addresses.values()) and record.missing:
            raise DataError(
                f"None of the {len(addresses):,} items of '{name}' has the address of a picture in "
                f"{directory / f'{name}.item'}; prepare it with --items=FILE that has a column "
                f"'{IMAGE_COLUMNS[0]}', or put pictures into {folder}."
            )
        folder.mkdir(parents=True, exist_ok=True)
        pictures.clear_away(folder)
        try:
            _fetch_all(record, name, settings.workers, progress, retry_policy)
        finally:
            record.save()
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror or error}); make room or mend its rights."
        ) from error
    return ImageCounts(record.fetched, record.present, record.reasons(), record.path)


def _addresses(name: str, directory: Path) -> dict[str, str]:
    """What the item table says of each item's picture; '' where nothing."""
    frame = read_items(directory, name)
    tokens = frame["item_id"].tolist()
    column = next((key for key in IMAGE_COLUMNS if key in frame), None)
    return dict(zip(tokens, [""] * len(tokens) if column is None else frame[column], strict=True))


class _Record:
    """Which pictures are there, wanted and missing, and the manifest that says so."""

    def __init__(self, path: Path, addresses: Mapping[str, str], retry_missing: bool) -> None:
        self.path, self.addresses, self._retry = path, addresses, retry_missing
        self.missing: dict[str, dict[str, str]] = {}
        self.wanted: list[str] = []
        self.present = self.fetched = 0
        self._next_save = 0.0

    def sort_out(self, metadata: ItemMetadata) -> None:
        """Tell what is there and what is missing without asking anybody from what is wanted."""
        before = self._read()
        for token, address in self.addresses.items():
            if metadata.picture(token):
                self.present += 1
                continue
            reason = _reason_not_to_ask(token, address)
            if reason is not None:
                self.add(_Outcome(token, address, reason))
                continue
            earlier = before.get(token)
            if earlier is not None and earlier.get("address") == address:
                self.missing[token] = earlier  # until there is news
                if earlier["reason"] in GONE and not self._retry:
                    continue
            self.wanted.append(token)

    def add(self, outcome: _Outcome) -> None:
        """Note what became of an item."""
        earlier = self.missing.get(outcome.token)
        if outcome.reason is None:
            self.missing.pop(outcome.token, None)
            self.fetched += 1
            return
        if earlier is not None and earlier["reason"] in GONE and not outcome.answered:
            return  # which is no news
        entry = {"reason": outcome.reason, "address": outcome.address, "detail": outcome.detail}
        self.missing[outcome.token] = {key: value for key, value in entry.items() if value}

    def reasons(self) -> dict[str, int]:
        """Items without a picture by reason, most first."""
        return dict(Counter(entry["reason"] for entry in self.missing.values()).most_common())

    def save(self) -> None:
        """Write the manifest."""
        there = self.present + self.fetched
        content = {
            "format_version": FORMAT_VERSION,
            "items": len(self.addresses),
            "pictures": there,
            "not_tried": len(self.addresses) - there - len(self.missing),
            "reasons": self.reasons(),
            "missing": {token: self.missing[token] for token in sorted(self.missing)},
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        pictures.store(text.encode(), self.path)

    def save_at_times(self) -> None:
        """Write the manifest if the last time is a while ago."""
        began = time.monotonic()
        if began >= self._next_save:
            self.save()
            ended = time.monotonic()
            self._next_save = ended + max(_SAVE_EVERY, _SAVE_SHARE * (ended - began))

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            missing = dict(content["missing"])
            known = content["format_version"] == FORMAT_VERSION
            if known and all(isinstance(entry["reason"], str) for entry in missing.values()):
                return missing
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError):
            pass
        raise DataError(
            f"{self.path} is no manifest of pictures; delete it, and what is missing is asked for "
            "again."
        )


def _reason_not_to_ask(token: str, address: str) -> str | None:
    if not address:
        return NO_ADDRESS
    if not address.lower().startswith(("http://", "https://")):
        return NOT_HTTP
    if pictures.is_placeholder(address):
        return pictures.PLACEHOLDER
    longest = max(map(len, SUFFIXES))
    return NO_NAME if len(file_stem(token).encode()) + longest > _LONGEST_NAME else None


def _fetch_all(
    record: _Record, name: str, workers: int, progress: bool, retry_policy: RetryPolicy
) -> None:
    known, stop = hosts.Hosts(retry_policy), threading.Event()
    bar = tqdm(desc=name, total=len(record.wanted), unit=" pictures", disable=not progress)

    def note(outcome: _Outcome) -> None:
        record.add(outcome)
        record.save_at_times()
        bar.set_postfix(missing=len(record.missing), refresh=False)
        bar.update()

    def jobs() -> Iterator[tuple[str, str]]:
        for token in record.wanted:
            address = record.addresses[token]
            if known.offline:
                return
            left_alone = known.given_up(address)
            if left_alone is None:
                yield token, address
            else:
                note(_failed(token, address, left_alone))

    fetcher = _Fetcher(record.path.parent, retry_policy, known, stop)
    with bar:
        try:
            for outcome in in_threads(fetcher, jobs(), min(workers, max(len(record.wanted), 1))):
                if outcome.answered:
                    known.note_answer(outcome.address)
                elif outcome.answered is not None:
                    known.note_silence(outcome.address, outcome.detail)
                note(outcome)
        finally:
            stop.set()
    # A few leftovers of a run that reached the others are no reason to think so.
    enough = known.failures >= hosts.DEAD_AFTER or (known.failures and not record.present)
    if enough and not known.answered:
        raise DataError(
            f"No picture of '{name}' could be reached ({known.trouble}); what is missing is not "
            "taken for gone, so run the same command again where there is a network."
        )


def _failed(token: str, address: str, failure: AttemptError) -> _Outcome:
    told = isinstance(failure, pictures.PictureError) or failure.status is not None
    asked = not isinstance(failure, hosts.LeftAloneError)
    reason, detail = pictures.reason_of(failure), "" if told and asked else str(failure)
    return _Outcome(token, address, reason, detail, answered=told if asked else None)


class _Fetcher:
    """Fetches one picture after the other, in any number of threads."""

    def __init__(
        self, folder: Path, retry_policy: RetryPolicy, known: hosts.Hosts, stop: threading.Event
    ) -> None:
        self._folder, self._retry_policy = folder, retry_policy
        self._hosts, self._stop = known, stop
        self._local = threading.local()

    def __call__(self, job: tuple[str, str]) -> _Outcome:
        token, address = job
        try:
            content, suffix = retry(
                functools.partial(self._attempt, address), self._retry_policy, self._pause
            )
        except AttemptError as failure:
            return _failed(token, address, failure)
        pictures.store(content, self._folder / f"{file_stem(token)}{suffix}")
        return _Outcome(token, address)

    def _attempt(self, address: str) -> tuple[bytes, str]:
        self._hosts.wait(address, self._stop.wait)
        try:
            content = pictures.receive(self._session(), address, self._retry_policy.timeout)
        except AttemptError as failure:
            self._hosts.note_attempt(address, failure)
            raise
        self._hosts.note_attempt(address, None)
        return content, pictures.check_picture(content)

    def _session(self) -> requests.Session:
        """A session of this thread's own, for sessions are not shared safely."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.headers["User-Agent"] = "recbole-hellm"
        return self._local.session

    def _pause(self, failure: AttemptError, seconds: float) -> None:
        # Whom a busy host holds up waits for it before the next attempt, as all do.
        if failure.status not in hosts.BUSY and self._stop.wait(seconds):
            raise failure
