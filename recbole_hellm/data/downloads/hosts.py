"""Hosts of pictures: which of them answer, and when an overloaded one may be asked again."""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from recbole_hellm.data.downloads.retry import AttemptError, RetryPolicy

logger = logging.getLogger(__name__)

DEAD_AFTER = 32  # failures of one kind in a row after which a host is given up
DEAD_HOSTS = 8  # so many hosts without an answer mean that there is no network
BUSY = frozenset([429, 503])  # statuses of an overloaded host


class GivenUpError(AttemptError):
    """A host was not asked, because it had been given up."""


def host_of(address: str) -> str:
    """The host, with its port, of an http or https address."""
    return address.split("/", 3)[2].lower()


@dataclasses.dataclass
class _Host:
    silent: int = 0  # items in a row without an answer
    busy: int = 0  # answers in a row with a status in BUSY
    not_before: float = 0.0
    given_up: str = ""  # why
    status: int | None = None


class Hosts:
    """What hosts have answered so far, for all threads.

    No thread asks a host that was given up. After an answer with a status in :data:`BUSY`, no
    thread asks the host before the time it names or, without one, before a pause that grows with
    each such answer in a row.

    Parameters
    ----------
    retry_policy : RetryPolicy
        The length of these pauses.

    Attributes
    ----------
    answered : bool
        Whether any host has answered.
    failures : int
        Items whose host did not answer.
    trouble : str
        The last of these failures.
    """

    def __init__(self, retry_policy: RetryPolicy) -> None:
        self.answered, self.failures, self.trouble = False, 0, ""
        self._retry_policy = retry_policy
        self._hosts: dict[str, _Host] = collections.defaultdict(_Host)
        self._lock = threading.Lock()

    def note_attempt(self, address: str, failure: AttemptError | None) -> None:
        """Note the end of one request; an overloaded host is then spared for a while."""
        name = host_of(address)
        with self._lock:
            host = self._hosts[name]
            if failure is not None and failure.status is None:
                return
            self.answered = True
            if failure is None or failure.status not in BUSY:
                host.busy = 0
                return
            host.busy += 1
            pause = self._retry_policy.wait(
                min(host.busy, self._retry_policy.attempts), failure.wait
            )
            host.not_before = max(host.not_before, time.monotonic() + pause)
            if host.busy == DEAD_AFTER:
                self._give_up(host, f"{name}: {failure}", failure.status)

    def note_item(self, address: str, answered: bool, detail: str) -> None:
        """Note whether the host answered any request for an item, and what happened if not."""
        name = host_of(address)
        with self._lock:
            host = self._hosts[name]
            if answered:
                self.answered, host.silent = True, 0
                if host.status is None:  # it was given up for its silence
                    host.given_up = ""
                return
            host.silent += 1
            self.failures += 1
            self.trouble = f"{name}: {detail}"
            if host.silent == DEAD_AFTER:
                self._give_up(host, self.trouble, None)

    def wait(self, address: str, sleep: Callable[[float], bool]) -> None:
        """Wait until the host may be asked.

        Parameters
        ----------
        address : str
        sleep : callable
            Waits for a number of seconds; true if the program is about to end.

        Raises
        ------
        GivenUpError
            If the host was given up, or `sleep` returned true.
        """
        with self._lock:
            host = self._hosts[host_of(address)]
        while True:
            if host.given_up:
                raise GivenUpError(host.given_up, "final", status=host.status)
            seconds = host.not_before - time.monotonic()
            if seconds <= 0:
                return
            if sleep(seconds):
                raise GivenUpError("interrupted", "final")

    @property
    def offline(self) -> bool:
        """Whether so many hosts failed, and none answered, that there is no network."""
        if self.answered or self.failures < DEAD_AFTER:
            return False
        with self._lock:
            return sum(host.silent > 0 for host in self._hosts.values()) >= DEAD_HOSTS

    def _give_up(self, host: _Host, reason: str, status: int | None) -> None:
        host.given_up, host.status = reason, status
        logger.warning("%s; its other pictures wait for the next run.", reason)
