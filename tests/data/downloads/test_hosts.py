from __future__ import annotations

import time

import pytest

from recbole_hellm.data.downloads import hosts as module
from recbole_hellm.data.downloads.hosts import GivenUpError, Hosts, host_of
from recbole_hellm.data.downloads.retry import AttemptError, RetryPolicy

POLICY = RetryPolicy(attempts=3, first_wait=1.0, longest_wait=10.0)
BUSY = AttemptError("the server has trouble (HTTP 429)", status=429)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    monkeypatch.setattr(module, "DEAD_AFTER", 3)
    monkeypatch.setattr(module, "DEAD_HOSTS", 2)
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    return Hosts(POLICY)


def pause(hosts: Hosts, address: str) -> float:
    """The seconds for which a thread waits before it asks."""
    waits: list[float] = []

    def sleep(seconds: float) -> bool:
        waits.append(seconds)
        return True

    try:
        hosts.wait(address, sleep)
    except GivenUpError:
        if not waits:
            raise
    return sum(waits)


def test_hosts_include_ports_and_ignore_case() -> None:
    assert host_of("http://Shop.example:80/a/b") == "shop.example:80"
    assert host_of("https://x") == "x"


def test_a_busy_host_gets_a_pause_that_grows(hosts: Hosts) -> None:
    assert pause(hosts, "http://a/1") == 0
    hosts.note_attempt("http://a/1", BUSY)
    assert hosts.answered
    assert 0.5 <= pause(hosts, "http://a/2") <= 1.0
    assert pause(hosts, "http://b/1") == 0
    hosts.note_attempt("http://a/2", AttemptError("busy", wait=7.0, status=503))
    assert pause(hosts, "http://a/3") == 7.0
    hosts.note_attempt("http://a/3", None)
    assert pause(hosts, "http://a/4") == 7.0  # the host named a time
    hosts.note_attempt("http://a/4", BUSY)
    assert pause(hosts, "http://a/5") == 7.0


def test_the_wait_ends_with_the_pause(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.note_attempt("http://a/1", BUSY)

    def sleep(seconds: float) -> bool:
        monkeypatch.setattr(time, "monotonic", lambda: 100.0 + seconds)
        return False

    hosts.wait("http://a/2", sleep)


def test_a_host_that_is_always_busy_is_given_up(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        hosts.note_attempt("http://a/1", BUSY)
    hosts.note_attempt("http://a/1", None)  # a request that was under way
    with pytest.raises(GivenUpError, match=r"^a: the server has trouble \(HTTP 429\)$") as caught:
        pause(hosts, "http://a/2")
    assert caught.value.status == 429
    assert caplog.text.count("its other pictures wait for the next run") == 1
    assert pause(hosts, "http://b/2") == 0


def test_a_silent_host_is_given_up_until_it_answers(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    for number, answered in enumerate([False, False, True, False, False, False]):
        assert pause(hosts, "http://a/1") == 0
        hosts.note_item(f"http://a/{number}", answered, "refused")
    assert hosts.failures == 5
    assert hosts.trouble == "a: refused"
    with pytest.raises(GivenUpError, match=r"^a: refused$") as caught:
        pause(hosts, "http://a/7")
    assert caught.value.status is None
    assert caplog.text.count("a: refused; its other pictures wait for the next run") == 1
    hosts.note_item("http://a/8", True, "")
    assert pause(hosts, "http://a/9") == 0


def test_silence_ends_no_row_of_busy_answers(hosts: Hosts) -> None:
    for failure in (BUSY, AttemptError("reset"), BUSY, AttemptError("reset"), BUSY):
        hosts.note_attempt("http://a/1", failure)
    with pytest.raises(GivenUpError):
        pause(hosts, "http://a/2")


def test_offline_takes_many_failures_of_many_hosts_and_no_answer(hosts: Hosts) -> None:
    for _ in range(3):
        hosts.note_item("http://a/1", False, "refused")
    assert not hosts.offline
    hosts.note_item("http://b/1", False, "refused")
    assert hosts.offline
    hosts.note_attempt("http://c/1", None)
    assert not hosts.offline
