from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from recbole_hellm import run
from recbole_hellm.benchmark import running
from recbole_hellm.benchmark.running import Job, carry_out
from recbole_hellm.errors import HellmError, RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.results import RunResult
from recbole_hellm.runs.running import execute

Outcomes = dict[str, RunResult | HellmError]


def carried_out(jobs: list[Job], parallel: int = 1) -> Outcomes:
    outcomes: Outcomes = {}
    carry_out(jobs, parallel, lambda job, outcome: outcomes.update({job.model: outcome}))
    return outcomes


def test_jobs_run_in_processes_of_their_own_and_failures_do_not_end_the_others(
    quick: dict[str, Any],
) -> None:
    wild = {**quick, "learning_rate": 1e30, "learner": "sgd", "epochs": 9}
    jobs = [Job("BPR", "tiny", wild), Job("Pop", "tiny", quick), Job("LightGCN", "tiny", quick)]
    outcomes = carried_out(jobs, parallel=2)
    failed, pop, graph = (outcomes[job.model] for job in jobs)
    assert isinstance(failed, RunError)
    assert "BPR" in str(failed)
    assert isinstance(pop, RunResult) and isinstance(graph, RunResult)
    assert graph.metrics()["recall@10"] >= 0
    # A peak of its own, not that of whatever ran before in this process.
    assert graph.record["cost"]["peak_memory_mb"] > 50


def test_processes_log_as_much_as_the_one_that_started_them(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = logging.getLogger("recbole_hellm")
    for seed, (level, told) in enumerate([(logging.WARNING, False), (logging.INFO, True)]):
        monkeypatch.setattr(package, "level", level)
        package.manager._clear_cache()  # type: ignore[attr-defined]
        carried_out([Job("Pop", "tiny", quick | {"seed": seed})])
        assert ("its training starts" in capfd.readouterr().err) == told


class FakeProcess:
    """A process that ends when it is waited for."""

    alive: ClassVar[list[str]] = []
    together: ClassVar[list[tuple[str, ...]]] = []
    most = 0

    def __init__(self, job: Job, claims: frozenset[str], parallel: int) -> None:
        self.job, self.claims = job, claims
        self.process = self
        self.sentinel = object()
        FakeProcess.alive.append(job.model)
        FakeProcess.most = max(FakeProcess.most, len(FakeProcess.alive))
        FakeProcess.together.append(tuple(FakeProcess.alive))

    def outcome(self) -> HellmError:
        FakeProcess.alive.remove(self.job.model)
        return RunError("none")

    def terminate(self) -> None:
        FakeProcess.alive.remove(self.job.model)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeProcess]:
    FakeProcess.alive, FakeProcess.together, FakeProcess.most = [], [], 0
    monkeypatch.setattr(running, "_Worker", FakeProcess)
    monkeypatch.setattr(running, "wait", lambda sentinels: sentinels[:1])
    return FakeProcess


def test_jobs_that_share_a_stage_wait_for_each_other(
    fake: type[FakeProcess], tmp_path: Path
) -> None:
    models = ("HeLLM", "LLaRA", "VBPR", "SASRec", "HeLLMPre", "CoLLM")
    jobs = [Job(name, "sample", {"runs_dir": str(tmp_path)}) for name in models]
    assert set(carried_out(jobs, 3)) == set(models)
    for group in fake.together:
        # HeLLM stands on SASRec and HeLLMPre, LLaRA on SASRec.
        assert len({"HeLLM", "LLaRA", "SASRec"} & set(group)) <= 1
        assert not {"HeLLM", "HeLLMPre"} <= set(group)
    assert ("HeLLM", "VBPR") in fake.together  # a later job goes ahead of one that waits
    assert 1 < fake.most <= 3


def test_jobs_do_not_wait_for_a_stage_that_is_finished(
    quick: dict[str, Any], fake: type[FakeProcess]
) -> None:
    settings = {**quick, "SASRec.epochs": 1}
    jobs = [Job("LLaRA", "tiny", {**settings, "train_users": share}) for share in (0.5, 1.0)]
    carry_out(jobs, 2)
    assert fake.most == 1
    execute(jobs[0].config().stages()["sequence"])
    carry_out(jobs, 2)
    assert fake.most == 2


def test_a_job_that_has_trained_a_stage_frees_it(
    quick: dict[str, Any], fake: type[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = run("Pop", "tiny", **quick)

    def outcome(self: FakeProcess) -> RunResult:
        FakeProcess.alive.remove(self.job.model)
        return some

    monkeypatch.setattr(FakeProcess, "outcome", outcome)
    shares = (0.25, 0.5, 1.0)
    carry_out([Job("LLaRA", "tiny", {**quick, "train_users": share}) for share in shares], 3)
    assert [len(group) for group in fake.together] == [1, 1, 2]


def test_seeds_do_not_wait_for_each_other(fake: type[FakeProcess]) -> None:
    jobs = [Job("HeLLM", "sample", {"seed": seed}) for seed in (1, 2)]
    carry_out(jobs, 2)
    assert fake.most == 2


def test_what_runs_is_ended_with_the_benchmark(fake: type[FakeProcess]) -> None:
    def interrupt(job: Job, outcome: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out([Job(name, "sample", {}) for name in ("VBPR", "Pop", "BPR")], 2, interrupt)
    assert fake.alive == []


PARENT = """
import sys
from recbole_hellm.benchmark.running import Job, carry_out
if __name__ == "__main__":
    overrides = dict(word.split("=") for word in sys.argv[1:])
    overrides |= {"epochs": 100000, "stopping_step": 100000, "show_progress": False}
    carry_out([Job("BPR", "tiny", overrides)])
"""


def test_nothing_goes_on_after_a_benchmark_that_was_killed(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    words = [f"{key}={quick[key]}" for key in ("data_path", "runs_dir")]
    parent = subprocess.Popen([sys.executable, str(script), *words], stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        folder = Path(quick["runs_dir"])
        assert _within(60, lambda: any(folder.glob("tiny/BPR/*/last.pt")))
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
        (run,) = folder.glob("tiny/BPR/*/config.yaml")
        message = "is being trained by another process"
        with pytest.raises(RunError, match=message), RunDirectory(run.parent).locked():
            pass
    finally:
        parent.kill()
    parent.wait()
    assert _within(10, lambda: not any(child.is_running() for child in children))
    with RunDirectory(run.parent).locked():
        pass


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return condition()


def test_a_process_that_is_killed_is_told(quick: dict[str, Any], tmp_path: Path) -> None:
    worker = running._Worker(Job("BPR", "tiny", quick | {"epochs": 1000}), frozenset(), 1)
    worker.process.kill()
    outcome = worker.outcome()
    assert isinstance(outcome, RunError)
    assert "BPR on tiny, seed 2024 ended without an error message (exit code -9)" in str(outcome)
