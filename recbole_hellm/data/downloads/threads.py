"""Work that waits for others, done by several threads at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

J = TypeVar("J")
R = TypeVar("R")
AHEAD = 2  # jobs per thread that are taken before results are handed on


def in_threads(function: Callable[[J], R], jobs: Iterable[J], workers: int) -> Iterator[R]:
    """Do jobs in threads, as many at once as there are `workers`, and give results as they come.

    Jobs are taken from their iterable only as results are handed on, so that any number of them
    takes no more memory than a few. Nobody waits for the threads: whoever stops iterating, or is
    interrupted, goes on at once, and jobs that have begun end by themselves or with the process.

    Parameters
    ----------
    function : callable
        Takes a job; called in any of the threads.
    jobs : iterable
        Advanced in the caller's thread.
    workers : int

    Yields
    ------
    object
        What `function` returned, in the order of completion. What it raised is raised.
    """
    # Neither queue holds more than the jobs that were taken.
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
    end = object()

    def work() -> None:
        while (job := tasks.get()) is not end:
            try:
                results.put((function(job), None))
            except Exception as error:  # whatever it is, it is the caller's
                results.put((None, error))

    def next_result() -> R:
        result, error = results.get()
        if error is not None:
            raise error
        return result

    for _ in range(workers):
        threading.Thread(target=work, daemon=True).start()
    taken = 0
    try:
        for job in jobs:
            tasks.put(job)
            taken += 1
            while taken >= AHEAD * workers:
                taken -= 1
                yield next_result()
        while taken:
            taken -= 1
            yield next_result()
    finally:
        while not tasks.empty():
            tasks.get()
        for _ in range(workers):
            tasks.put(end)
