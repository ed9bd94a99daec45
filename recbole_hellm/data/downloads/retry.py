"""One attempt at a transfer over HTTP: how it may fail, and whether another may succeed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import requests
import urllib3

BLOCK = 1 << 16  # bytes that are read at a time
_TRY_AGAIN = frozenset([408, 425, 429])  # and everything from 500 on


class AttemptError(Exception):
    """One attempt failed.

    Attributes
    ----------
    kind : {"again", "unreachable", "spoilt", "final"}
        Whether another attempt may succeed: it may; hardly, for there was no connection, or what
        came is not what it should be; it will not.
    wait : float, optional
        Seconds for which the server asked.
    status : int, optional
        The HTTP status that was the reason.
    attempts : int
        How many were made before no more were.
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


@contextlib.contextmanager
def attempting() -> Iterator[None]:
    """Within it, what requests and urllib3 raise becomes an :class:`AttemptError`."""
    try:
        yield
    except (requests.ConnectionError, requests.exceptions.InvalidURL) as error:
        raise AttemptError(f"no connection ({_root(error)[1]})", _kind(error)) from error
    except requests.exceptions.InvalidSchema as error:
        raise AttemptError("it is no http or https address", "final") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise AttemptError(f"the connection broke ({_root(error)[1]})") from error
    except ValueError as error:  # urllib's own, UnicodeError among them: a redirect to nonsense
        raise AttemptError("the address is malformed", "final") from error


def refuse_errors(response: requests.Response) -> None:
    """Raise :class:`AttemptError` unless the status is 200 or 206."""
    status = response.status_code
    if status in (200, 206):
        return
    if status in _TRY_AGAIN or status >= 500:
        asked = response.headers.get("Retry-After", "")
        seconds = float(asked) if asked.isascii() and asked.isdigit() else None
        raise AttemptError(f"the server has trouble (HTTP {status})", "again", seconds, status)
    problem = "it is not there" if status in (404, 410) else "the server refuses it"
    raise AttemptError(f"{problem} (HTTP {status})", "final", status=status)


def content_length(response: requests.Response) -> int | None:
    """Bytes that the body should have, where the server says so."""
    size = response.headers.get("Content-Length", "")
    return int(size) if size.isascii() and size.isdigit() else None


def _kind(error: requests.RequestException) -> str:
    if isinstance(error, (requests.exceptions.SSLError, requests.exceptions.InvalidURL)):
        return "final"
    never_there = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    proxy = isinstance(error, requests.exceptions.ProxyError)
    return "unreachable" if proxy or isinstance(_root(error)[0], never_there) else "again"


def _root(error: BaseException) -> tuple[BaseException, str]:
    """The error that libraries wrapped, and what it says in a few words."""
    inner: Any = error
    for _ in range(5):
        following = getattr(inner, "reason", None)
        parts = (following, *inner.args)
        inner = next((part for part in parts if isinstance(part, BaseException)), inner)
    text = str(inner).rpartition(": ")[2].partition(" ([Errno")[0]
    return inner, " ".join(text.split())[:120].rstrip(".") or type(inner).__name__
