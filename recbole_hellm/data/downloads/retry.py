"""Attempts at an HTTP transfer: how they fail, and how often and when they are repeated."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import requests
import urllib3
from urllib3 import exceptions

logger = logging.getLogger(__name__)

T = TypeVar("T")
BLOCK = 1 << 16  # bytes that are read at a time
_PASSING = frozenset([408, 425, 429])  # statuses that may pass, like all from 500 on
# As what urllib3.Retry counts the kinds of failures that may pass.
_COUNTED_AS = {
    "again": exceptions.ProtocolError(),
    "unreachable": exceptions.ConnectTimeoutError(),
    "spoilt": exceptions.HTTPError(),
}


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How long a download is tried.

    Attributes
    ----------
    attempts : int
        Requests per address. Two at most end without a connection or with a file that fails its
        checks.
    first_wait, longest_wait : float
        Seconds before the second attempt, and the maximum. The wait doubles each time; a random
        part, up to half of it, is left out so that many clients do not come back together.
    timeout : float
        Seconds without a byte after which a connection is given up.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 30.0

    def wait(self, failures: int, requested: float | None = None) -> float:
        """Seconds to wait after `failures` failures, where the server `requested` some."""
        longest = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        jittered = longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
        return min(self.longest_wait, max(jittered, requested or 0.0))


class AttemptError(Exception):
    """One attempt failed.

    Attributes
    ----------
    kind : {"again", "unreachable", "spoilt", "final"}
        Whether another attempt may succeed: it may; it may once more, since there was no
        connection or the content is wrong; it will not.
    wait : float, optional
        Seconds to wait that the server requested.
    status : int, optional
        The HTTP status, if that was the reason.
    attempts : int
        How many attempts failed.
    """

    def __init__(
        self,
        reason: str,
        kind: str = "again",
        wait: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind, self.wait, self.status = kind, wait, status
        self.attempts = 1


def _sleep(failure: AttemptError, seconds: float) -> None:
    logger.info("%s; again in %.1f s.", failure, seconds)
    time.sleep(seconds)


def retry(
    action: Callable[[], T],
    retry_policy: RetryPolicy,
    pause: Callable[[AttemptError, float], object] = _sleep,
) -> T:
    """Call `action` until it succeeds or the policy ends the attempts.

    Parameters
    ----------
    action : callable
        One attempt; raises :class:`AttemptError` if it fails.
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
        The last failure, with the number of attempts.
    """
    retries = urllib3.Retry(retry_policy.attempts - 1, connect=1, other=1)
    while True:
        try:
            return action()
        except AttemptError as failure:
            failure.attempts = len(retries.history) + 1
            if failure.kind == "final":
                raise
            try:
                retries = retries.increment("GET", error=_COUNTED_AS[failure.kind])
            except exceptions.MaxRetryError as error:
                raise failure from error
            pause(failure, retry_policy.wait(failure.attempts, failure.wait))


@contextlib.contextmanager
def get(
    session: requests.Session, url: str, timeout: float, headers: Mapping[str, str] | None = None
) -> Iterator[requests.Response]:
    """The response to one request; the block reads its body.

    Parameters
    ----------
    session : requests.Session
    url : str
    timeout : float
        Seconds without a byte after which the connection is given up.
    headers : mapping of str to str, optional

    Raises
    ------
    AttemptError
        If the connection fails, now or in the block.
    """
    # With a compressed transfer the bytes would not be those of the file.
    headers = {"Accept-Encoding": "identity", **(headers or {})}
    try:
        with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
            yield response
    except (requests.ConnectionError, requests.exceptions.InvalidURL) as error:
        raise AttemptError(f"no connection ({_words(error)})", _kind(error)) from error
    except requests.exceptions.InvalidSchema as error:
        raise AttemptError("it is not an http or https address", "final") from error
    except (requests.RequestException, exceptions.HTTPError) as error:
        raise AttemptError(f"the connection broke ({_words(error)})") from error
    except ValueError as error:  # from urllib, such as UnicodeError: a redirect to nonsense
        raise AttemptError("the address is malformed", "final") from error


def check_status(response: requests.Response) -> None:
    """Raise :class:`AttemptError` unless the status is 200 or 206."""
    status = response.status_code
    if status in (200, 206):
        return
    if status in _PASSING or status >= 500:
        wait = None
        with contextlib.suppress(exceptions.InvalidHeader):
            wait = urllib3.Retry().get_retry_after(response)  # type: ignore[arg-type]
        raise AttemptError(f"the server has trouble (HTTP {status})", "again", wait, status)
    problem = "it is not there" if status in (404, 410) else "the server refuses it"
    raise AttemptError(f"{problem} (HTTP {status})", "final", status=status)


def byte_count(text: str | None) -> int | None:
    """The number of bytes in a header such as Content-Length, if it is one."""
    return int(text) if text and text.isascii() and text.isdigit() else None


def _kind(error: requests.RequestException) -> str:
    if isinstance(error, (requests.exceptions.SSLError, requests.exceptions.InvalidURL)):
        return "final"
    no_connection = isinstance(
        _root(error), (exceptions.NewConnectionError, exceptions.ConnectTimeoutError)
    )
    proxy = isinstance(error, requests.exceptions.ProxyError)
    return "unreachable" if proxy or no_connection else "again"


def _root(error: BaseException) -> BaseException:
    """The error that others wrap."""
    wrapped = (getattr(error, "reason", None), *error.args)
    inner = next((part for part in wrapped if isinstance(part, BaseException)), None)
    return error if inner is None else _root(inner)


def _words(error: BaseException) -> str:
    root = _root(error)
    text = str(root).rpartition(": ")[2].partition(" ([Errno")[0]
    return " ".join(text.split())[:120].rstrip(".") or type(root).__name__
