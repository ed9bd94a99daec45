"""Carry out many runs, each in its own process.

A separate process measures a run's true peak memory, frees its memory at the end, and keeps a crash
from ending the other runs. Every run is resumable, so an interrupted benchmark continues where it
stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from recbole_hellm.config.logs import configure_logging
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.preparation.versions import finished_runs
from recbole_hellm.errors import HellmError, RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.identity import recipe, recipe_of
from recbole_hellm.runs.results import RunResult, load_run
from recbole_hellm.runs.running import execute
from recbole_hellm.storage.checksums import content_hash

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to carry out, in the terms of the command line.

    Attributes
    ----------
    model, dataset : str
    overrides : Mapping
    files : tuple of Path
        Settings files.
    """

    model: str
    dataset: str
    overrides: Mapping[str, Any]
    files: tuple[Path, ...] = ()

    def config(self) -> HellmConfig:
        """The run's configuration."""
        return HellmConfig(self.model, self.dataset, self.overrides, self.files)

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}, seed {self.config()['seed']}"


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run that a benchmark needs: a method's, or a point's of a figure."""

    label: str
    job: Job
    point: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def recipe(self) -> str:
        """What its record is known by."""
        return content_hash(recipe(self.job.config()))


def carry_out(
    jobs: Iterable[Job],
    parallel: int = 1,
    on_done: Callable[[Job, RunResult | HellmError], None] = lambda job, outcome: None,
) -> None:
    """Carry out `jobs`, at most `parallel` at a time, in their order where possible.

    A job waits for another one that trains the same run or the same stage. Finished stages keep
    nobody waiting.

    Parameters
    ----------
    jobs : iterable of Job
    parallel : int
        Number of jobs at a time; they share the processor's cores evenly unless ``threads`` is set.
    on_done : callable
        Called with a job and its run, or the error that ended it. The other jobs continue after
        an error.
    """
    configs = [(job, job.config()) for job in jobs]
    waiting = [(job, _claims(config)) for job, config in configs]
    # One at a time, no job waits for another.
    finished = _finished(config for _, config in configs) if parallel > 1 else set()
    running: dict[Any, _Worker] = {}
    try:
        while waiting or running:
            for job, claims in list(waiting):
                taken = set().union(*(worker.claims for worker in running.values()))
                if len(running) >= parallel or (claims & taken) - finished:
                    continue
                waiting.remove((job, claims))
                worker = _Worker(job, claims, parallel)
                running[worker.process.sentinel] = worker
            for sentinel in wait(list(running)):
                worker = running.pop(sentinel)
                outcome = worker.outcome()
                if isinstance(outcome, RunResult):
                    finished |= worker.claims
                on_done(worker.job, outcome)
    finally:
        for worker in running.values():
            worker.process.terminate()


def _claims(config: HellmConfig) -> frozenset[str]:
    """Recipe hashes of the runs that a job may write: its own and its stages'."""
    claims = {content_hash(recipe(config))}
    return frozenset(claims.union(*(_claims(stage) for stage in config.stages().values())))


def _finished(configs: Iterable[HellmConfig]) -> set[str]:
    """Recipe hashes of the finished runs in the folders of these runs.

    A damaged run counts as not finished, so that one job alone meets it.
    """
    folders = {(Path(config["runs_dir"]), config["dataset"]) for config in configs}
    recipes = set()
    for runs in itertools.chain(*itertools.starmap(finished_runs, folders)):
        with contextlib.suppress(RunError):
            recipes.add(content_hash(recipe_of(RunDirectory(runs).identity())))
    return recipes


class _Worker:
    """A process that carries out one job."""

    def __init__(self, job: Job, claims: frozenset[str], parallel: int) -> None:
        self.job, self.claims = job, claims
        overrides = dict(job.overrides) | {"resume": True}
        if parallel > 1:
            overrides["show_progress"] = False
            overrides.setdefault("threads", max(1, (os.cpu_count() or 1) // parallel))
        # Spawn: a fork would copy torch's threads in an unknown state.
        context = multiprocessing.get_context("spawn")
        self._inbox, outbox = context.Pipe(duplex=False)
        # A notebook, which logs warnings alone, is not filled with a process's progress.
        level = logger.getEffectiveLevel()
        self.process: SpawnProcess = context.Process(
            target=_work,
            args=(dataclasses.replace(job, overrides=overrides), outbox, level),
            daemon=True,
        )
        logger.info("%s.", job)
        with _interrupts_held():
            self.process.start()
        outbox.close()

    def outcome(self) -> RunResult | HellmError:
        try:
            kind, text = self._inbox.recv() if self._inbox.poll() else ("died", "")
        except EOFError:
            kind, text = "died", ""
        self.process.join()
        if kind == "done":
            try:
                return load_run(text)
            except HellmError as error:
                return error
        if kind == "died":
            text = (
                f"{self.job} ended without an error message (exit code {self.process.exitcode}), "
                "perhaps out of memory; run the benchmark again to continue from its last epoch."
            )
        return RunError(text)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that interrupts do not reach: this process ends them.

    A terminal sends an interrupt to all of them, some of which may just be importing.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(job: Job, outbox: Connection, level: int) -> None:
    configure_logging(level)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outbox.send(("done", str(execute(job.config()).path)))
    except HellmError as error:
        outbox.send(("failed", str(error)))
    except Exception as error:  # one failed run must not end the benchmark
        logger.exception("%s", job)
        outbox.send(("failed", f"{type(error).__name__}: {error}"))
    except KeyboardInterrupt:
        return
    finally:
        outbox.close()


def _end_with_parent() -> None:
    """End this process when the benchmark's process ends, killed or not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
