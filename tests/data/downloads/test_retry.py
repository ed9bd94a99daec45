from __future__ import annotations

import email.utils
import time

import pytest
import requests
import urllib3

from recbole_hellm.data.downloads import retry as module
from recbole_hellm.data.downloads.retry import (
    AttemptError,
    RetryPolicy,
    byte_count,
    check_status,
    get,
    retry,
)

POLICY = RetryPolicy(attempts=5, first_wait=1.0, longest_wait=10.0)


def response(status: int, **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


def attempts(*kinds: str) -> int:
    """The number of attempts until one succeeds, after failures of these kinds; 0 if none does."""
    left, waits = list(kinds), []

    def action() -> int:
        if left:
            raise AttemptError("no", left.pop(0))
        return len(kinds) + 1

    try:
        return retry(action, POLICY, lambda _, seconds: waits.append(seconds))
    except AttemptError as failure:
        counts = (failure.attempts, len(waits) + 1)
    assert counts == (len(kinds) - len(left),) * 2
    return 0


def test_waits_grow_with_jitter_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for share in (0.5, 1.0):
        monkeypatch.setattr(module.random, "uniform", lambda low, high, share=share: share)
        waits = [POLICY.wait(failures) for failures in range(1, 7)]
        assert waits == [share * longest for longest in (1, 2, 4, 8, 10, 10)]
    drawn = []
    monkeypatch.setattr(module.random, "uniform", lambda *bounds: drawn.append(bounds) or 0.5)
    assert POLICY.wait(1, requested=7.0) == 7.0
    assert POLICY.wait(1, requested=70.0) == 10.0
    assert drawn == [(0.5, 1.0)] * 2


@pytest.mark.parametrize(
    ("kinds", "made"),
    [
        ([], 1),
        (["again"] * 4, 5),
        (["again"] * 5, 0),
        (["unreachable"], 2),
        (["unreachable"] * 2, 0),
        (["spoilt"] * 2, 0),
        (["unreachable", "spoilt", "again", "again"], 5),
        (["unreachable", "again", "unreachable"], 0),
        (["final"], 0),
    ],
)
def test_how_often_which_failures_are_repeated(kinds: list[str], made: int) -> None:
    assert attempts(*kinds) == made


def test_the_servers_wish_reaches_the_wait() -> None:
    waits: list[float] = []
    failures = [AttemptError("busy", wait=8.0), AttemptError("busy", wait=80.0)]

    def action() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert retry(action, POLICY, lambda _, seconds: waits.append(seconds)) == "done"
    assert waits == [8.0, 10.0]


def test_statuses() -> None:
    check_status(response(200))
    check_status(response(206))
    for status, kind, reason in (
        (404, "final", "it is not there"),
        (410, "final", "it is not there"),
        (403, "final", "the server refuses it"),
        (429, "again", "the server has trouble"),
        (500, "again", "the server has trouble"),
    ):
        with pytest.raises(AttemptError) as caught:
            check_status(response(status))
        assert str(caught.value) == f"{reason} (HTTP {status})"
        assert (caught.value.kind, caught.value.status) == (kind, status)
        assert caught.value.wait is None


def test_retry_after_is_a_number_or_a_date() -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    for header, low, high in (("7", 7, 7), (later, 90, 101)):
        with pytest.raises(AttemptError) as caught:
            check_status(response(503, Retry_After=header))
        assert caught.value.wait is not None
        assert low <= caught.value.wait <= high
    with pytest.raises(AttemptError) as caught:
        check_status(response(503, Retry_After="soon"))
    assert caught.value.wait is None


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (requests.ConnectionError("a: b: reset."), "again", r"no connection \(reset\)"),
        (
            requests.ConnectionError(
                urllib3.exceptions.MaxRetryError(
                    None,  # type: ignore[arg-type]
                    "/",
                    urllib3.exceptions.ConnectTimeoutError("timed out"),
                )
            ),
            "unreachable",
            r"no connection \(timed out\)",
        ),
        (requests.exceptions.ProxyError("refused"), "unreachable", "no connection"),
        (requests.exceptions.SSLError("bad certificate"), "final", "no connection"),
        (requests.exceptions.InvalidURL("no host"), "final", "no connection"),
        (requests.exceptions.InvalidSchema("ftp"), "final", "not an http or https address"),
        (urllib3.exceptions.ProtocolError(), "again", r"the connection broke \(ProtocolError\)"),
        (UnicodeError("label"), "final", "the address is malformed"),
    ],
)
def test_errors_of_libraries_become_attempt_errors(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(requests.Session, "get", fail)
    with (
        pytest.raises(AttemptError, match=message) as caught,
        requests.Session() as session,
        get(session, "http://x/", 1.0),
    ):
        pass
    assert caught.value.kind == kind


def test_byte_counts() -> None:
    assert [byte_count(text) for text in ("12", "0", "", None, "-1", "x", "²")] == [
        *(12, 0, None, None, None, None, None)
    ]
