"""Hosts of pictures: which of them answer, and when one that has too much to do is asked again."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from recbole_hellm.data.downloads.http import RetryPolicy
from recbole_hellm.data.downloads.retry import AttemptError

logger = logging.getLogger(__name__)

DEAD_AFTER = 32  # failures in a row, of one kind, after which a host is given up
DEAD_HOSTS = 8  # hosts without an answer that make a network that is not there
BUSY = frozenset([429, 503])  # the answers of a host that wants to be asked less


class LeftAloneError(AttemptError):
    """A host was not asked, for it was given up before."""


def host_of(address: str) -> str:
    """The host, with its port, of an http or https address."""
    return address.split("/", 3)[2].lower()


class Hosts:
    """What hosts did so far, for all threads that ask them.

    Those that never answer are not asked for every item. One that answers :data:`BUSY` is asked by
    nobody before the time that it names or, without one, a pause that grows with each such answer
    in a row.

    Parameters
    ----------
    retry_policy : RetryPolicy
        How long these pauses are.

    Attributes
    ----------
    answered : bool
        Whether any host did.
    failures : int
        Items whose host did not.
    trouble : str
        The last of these, in words.
    """

    def __init__(self, retry_policy: RetryPolicy) -> None:
        self.answered = False
        self.failures = 0
        self.trouble = ""
        self._retry_policy = retry_policy
        self._silent: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        self._left: dict[str, tuple[str, int | None]] = {}  # busy ones: why, and the status
        self._lock = threading.Lock()

    def note_answer(self, address: str) -> None:
        """An item's host answered, whatever it said."""
        self.answered = True
        self._silent.pop(host_of(address), None)

    def note_silence(self, address: str, detail: str) -> None:
        """An item's host did not answer."""
        host = host_of(address)
        self.failures += 1
        self.trouble = f"{host}: {detail}"
        self._silent[host] += 1
        if self._silent[host] == DEAD_AFTER:
            self._warn(self.trouble)

    def note_attempt(self, address: str, failure: AttemptError | None) -> None:
        """One request ended: the host is spared for a while if it has too much to do."""
        host = host_of(address)
        with self._lock:
            if failure is not None and failure.status is None:
                return
            self.answered = True
            if failure is None or failure.status not in BUSY:
                self._busy.pop(host, None)
                return
            self._busy[host] += 1
            row = self._busy[host]
            pause = self._retry_policy.wait(min(row, self._retry_policy.attempts), failure.wait)
            until = max(self._not_before.get(host, 0.0), time.monotonic() + pause)
            self._not_before[host] = until
            if row == DEAD_AFTER:
                self._left[host] = f"{host}: {failure}", failure.status
                self._warn(self._left[host][0])

    def wait(self, address: str, sleep: Callable[[float], bool]) -> None:
        """Wait until the host may be asked.

        Parameters
        ----------
        address : str
        sleep : callable
            Waits for a number of seconds; true if there is nothing to wait for any more.

        Raises
        ------
        LeftAloneError
            If it is not to be asked any more.
        """
        while True:
            if (left_alone := self.given_up(address)) is not None:
                raise left_alone
            seconds = self._not_before.get(host_of(address), 0.0) - time.monotonic()
            if seconds <= 0:
                return
            if sleep(seconds):
                raise LeftAloneError("it was not waited for", "final")

    def given_up(self, address: str) -> LeftAloneError | None:
        """Why the host of an address is not to be asked any more in this run; None if it is."""
        host = host_of(address)
        if host in self._left:
            why, status = self._left[host]
            return LeftAloneError(why, "final", status=status)
        silent = self._silent[host] >= DEAD_AFTER
        return LeftAloneError(self.trouble, "final") if silent else None

    @property
    def offline(self) -> bool:
        """Whether so many hosts failed, and none answered, that there is no network."""
        many = len(self._silent) >= DEAD_HOSTS and self.failures >= DEAD_AFTER
        return many and not self.answered

    def _warn(self, why: str) -> None:
        logger.warning("%s; its other pictures are left for later.", why)
