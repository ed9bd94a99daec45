from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from recbole_hellm.data.downloads.threads import AHEAD, in_threads


def test_every_job_is_done_once() -> None:
    assert sorted(in_threads(lambda job: 2 * job, range(500), 7)) == list(range(0, 1000, 2))
    assert list(in_threads(str, [], 3)) == []


def test_jobs_are_taken_only_as_results_are_handed_on() -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for job in range(1000):
            taken += 1
            yield job

    for given, _ in enumerate(in_threads(str, jobs(), 4), start=1):
        assert taken - given < AHEAD * 4


def test_no_more_threads_work_than_told() -> None:
    busy, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.001)
        with lock:
            busy -= 1

    list(in_threads(work, range(50), 3))
    assert most == 3


def test_what_a_job_raises_is_raised_and_the_rest_is_left() -> None:
    done = []

    def work(job: int) -> None:
        if job == 5:
            raise OSError("disk full")
        done.append(job)

    with pytest.raises(OSError, match="disk full"):
        list(in_threads(work, range(1000), 2))
    assert len(done) < 20


def test_threads_end() -> None:
    before = set(threading.enumerate())
    results = in_threads(str, range(100), 4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    list(in_threads(str, range(100), 4))
    until = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.001)
    assert set(threading.enumerate()) <= before
