"""Several processes do what one does: two of them on the CPU, over gloo."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.processes import (
    MASKINGS,
    Shared,
    environment,
    free_port,
    needs_gloo,
)

from recbole_hellm import load_run
from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation.evaluator import Evaluator
from recbole_hellm.runs.opening import build_model
from recbole_hellm.training.distributed import Processes, alone, current, process_group

# Runs shared by two processes ---------------------------------------------------------------------


@needs_gloo
def test_processes_drop_out_different_things(shared: Shared) -> None:
    """The same dropout in both would make the copies' random states alike."""
    state = torch.load(shared.result("whole").path / "last.pt", weights_only=True)
    (other,) = state["random_of_others"]
    assert not torch.equal(state["random"]["torch"], other["torch"])


@needs_gloo
def test_both_processes_train_stages_and_the_first_one_writes(shared: Shared) -> None:
    stages = shared.result("ddp").stages
    assert [stage.record["model"] for stage in stages] == ["HeLLMPre", "SASRec"]
    assert {stage.record["cost"]["processes"] for stage in stages} == {2}
    folders = sum(1 for _ in shared.root.glob("*/tiny/HeLLMPre/*/metrics.json"))
    copies = len(list(shared.root.glob("*-single"))) + len(list(shared.root.glob("*-copy")))
    assert shared.log.count("HeLLMPre epoch 1: ") == folders - copies
    assert "Pop runs in one process while the others wait." in shared.log
    assert "HeLLMPre runs in one process" not in shared.log
    written = json.loads((shared.root / "written-1.json").read_text())
    ours = [path for path in written if str(shared.root) in path]
    assert all("/last/" in path and "fsdp" in path for path in ours)
    assert any(
        "best.pt" in path for path in json.loads((shared.root / "written-0.json").read_text())
    )


@needs_gloo
def test_the_command_line_speaks_once(shared: Shared) -> None:
    assert shared.log.count("Test, mask_history=seen") == 1
    (path,) = (shared.root / "cli/tiny/SASRec").iterdir()
    assert load_run(path).record["epochs"] == 1


# How processes end --------------------------------------------------------------------------------

MISTAKE = """
import sys
from recbole_hellm.cli.commands import run
from recbole_hellm.cli.main import main
from recbole_hellm.errors import RunError
from recbole_hellm.training.distributed import current

def callback(options, overrides):
    if current().rank in overrides["ranks"]:
        raise {"RunError": RunError, "KeyError": KeyError}[overrides["error"]]("the disk is full")
    while True:
        current().gather(1)

run.command.callback = callback
sys.exit(main(sys.argv[1:]))
"""


@needs_gloo
@pytest.mark.parametrize(
    ("ranks", "error", "codes", "told"),
    [
        ([0], "RunError", [2, 2], ["the disk is full", "Process 0 of this run has ended"]),
        ([1], "RunError", [2, 2], ["Process 1 of this run has ended", "the disk is full"]),
        ([0, 1], "RunError", [2, 2], ["the disk is full", ""]),
        ([1], "KeyError", [2, 1], ["Process 1 of this run has ended", "KeyError: 'the disk is f"]),
    ],
)
def test_an_error_ends_all(
    tmp_path: Path, ranks: list[int], error: str, codes: list[int], told: list[str]
) -> None:
    script = tmp_path / "mistake.py"
    script.write_text(textwrap.dedent(MISTAKE))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    started = time.perf_counter()
    running = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, str(script), f"--ranks={ranks}", f"--error={error}"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**place, RANK=str(rank)),
        )
        for rank in (0, 1)
    ]
    ends = [process.communicate(timeout=90)[1] for process in running]
    assert time.perf_counter() - started < 60
    assert [process.returncode for process in running] == codes, ends
    for end, sentence in zip(ends, told, strict=True):
        errors = [line for line in end.splitlines() if "recbole-hellm: " in line or "Error" in line]
        if sentence:
            assert sentence in errors[-1]
            assert ("Traceback" in end) == ("KeyError" in sentence)
        else:
            assert not errors


# One process --------------------------------------------------------------------------------------


def test_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group() as processes:
        assert processes == current() == Processes(0, 1, None)
        assert (processes.gather(3), processes.broadcast("x"), processes.first) == ([3], "x", True)
        processes.barrier()
        assert not dist.is_initialized()


def test_an_incomplete_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="WORLD_SIZE=2 is set without RANK, MASTER_ADDR"),
        process_group(),
    ):
        pass
    assert current().size == 1


def test_what_is_done_alone_is_done_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_hellm.training import distributed

    several = Processes(1, 3)
    monkeypatch.setattr(distributed, "_current", several)
    with alone():
        assert current() == Processes()
    assert current() is several


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_an_evaluation_is_divided_without_a_trace(
    make_parts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Processes one after the other, each handed what all of them give."""
    config, dataset, parts = make_parts(
        "BPR", eval_users=8, save_topk=3, metrics=["NDCG", "GiniIndex"]
    )
    evaluator = Evaluator(config, dataset, {"valid": parts[1], "test": parts[2]})
    model = build_model(config, parts[0])
    whole = evaluator.evaluate(model, "test", MASKINGS)
    gathered: list[Any] = []
    calls: list[int] = []
    score = model.full_sort_predict

    class One(Processes):
        def gather(self, value: Any) -> list[Any]:
            gathered.append(value)
            return gathered if len(gathered) == size else [value]

    for rank in range(size):
        from recbole_hellm.evaluation import evaluator as module

        monkeypatch.setattr(module, "current", lambda rank=rank: One(rank, size))
        calls.append(0)

        def counted(rows: Any) -> Any:
            calls[-1] += 1
            return score(rows)

        monkeypatch.setattr(model, "full_sort_predict", counted)
        try:
            evaluation = evaluator.evaluate(model, "test", MASKINGS)
        except (IndexError, ValueError):
            assert size > 5  # this one had no chunk, and only the last one is handed the others'
    assert calls == [-(-5 // size)] * size  # all make as many passes
    assert evaluation.metrics == whole.metrics
    assert np.array_equal(evaluation.topk, whole.topk)
    for masking in MASKINGS:
        for name in ("users", "higher", "tied", "candidates"):
            left, right = (getattr(part.ranks[masking], name) for part in (evaluation, whole))
            assert left.tolist() == right.tolist()
