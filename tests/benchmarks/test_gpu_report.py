from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpu_report import Figures, Part, finish, jobs, run

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(out=tmp_path, threads=1)


def quick(_seconds: float) -> Figures:
    yield {"epoch": 1, "loss": 2.0, "train_s": 3.0, "valid_s": 1.0, "valid": {"ndcg@10": 0.0612}}
    yield {"best_epoch": 1, "test": {"ndcg@10": 0.05, "recall@20": 0.12}}


def failing(_seconds: float) -> Figures:
    yield {"task": "training", "path": "p", "samples_per_s": 1.5, "tokens_per_s": 7, "peak_gib": 3}
    raise ValueError("too large a batch")


def dying(_seconds: float) -> Figures:
    yield {"task": "evaluation"}
    os._exit(7)


def endless(_seconds: float) -> Figures:
    yield {"largest_batch": 8}
    time.sleep(600)


def test_a_part_that_fails_or_hangs_costs_nobody_elses_figures(
    options: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [Part("fails", 60, failing), Part("dies", 60, dying), Part("trains", 60, quick)]
    run(parts, options, {"inputs": {}}, time.monotonic() + 60)
    report = json.loads((options.out / "report.json").read_text())
    found = {part["name"]: part for part in report["parts"]}
    assert [part["status"] for part in report["parts"]] == ["failed", "failed", "done"]
    assert found["fails"]["error"] == "ValueError: too large a batch"
    assert found["dies"]["error"] == "it ended with status 7"
    assert [len(part["figures"]) for part in report["parts"]] == [1, 1, 2]
    table = (options.out / "report.md").read_text()
    assert "| fails, p | training | 1.5 | 7 | 3.0 |" in table
    assert "| trains | 0.0612 | 0.0500 | 0.1200 | 3.0 | 1.0 |" in table
    assert "- fails: failed (ValueError: too large a batch)" in table
    assert "failed    fails (ValueError" in capsys.readouterr().out


def test_a_part_is_stopped_when_its_time_is_up(options: argparse.Namespace) -> None:
    grown: list[dict[str, Any]] = []
    begun = time.monotonic()
    entry = finish(Part("hangs", 60, endless), 1.5, options.out / "log", 1, grown.append)
    assert time.monotonic() - begun < 10
    assert entry["status"] == "stopped" and "seconds were up" in entry["error"]
    assert entry["figures"] == [{"largest_batch": 8}]
    assert [part["status"] for part in grown] == ["running"]


def test_no_part_begins_without_time(options: argparse.Namespace) -> None:
    run([Part("late", 60, quick)], options, {}, time.monotonic() + 4)
    (part,) = json.loads((options.out / "report.json").read_text())["parts"]
    assert part["status"] == "not begun" and part["figures"] == []


def test_configurations_follow_what_travels() -> None:
    tables = {"graph", "sequence", "language"}
    names = [job.name for job in jobs(tables, 14)]
    assert names[0] == "pretrained, 8 layers, prefix graph, items graph+sequence"
    assert "pretrained, 8 layers, prefix graph, items graph+sequence+language" in names
    assert {job.layers for job in jobs(tables, 14)} == {4, 8, 14, 2}
    assert {job.layers for job in jobs(tables, 3) if job.weights != "tiny"} == {3}
    assert len(set(names)) == len(names)
    without = jobs({"sequence"}, 8)
    assert {job.prefix for job in without} == {"static", "none"}
    assert all(job.items == ("sequence",) for job in without)


def test_the_script_runs_on_a_cpu_without_recbole(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden/recbole"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('the report needs no RecBole')\n")
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(hidden.parent),
        "OMP_NUM_THREADS": "1",
    }
    command = [str(BENCHMARKS / "gpu_report.sh"), "--smoke", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    found = {part["name"]: part for part in report["parts"]}
    assert {part["status"] for part in found.values()} == {"done"}, done.stdout
    assert {"torch", "transformers", "peft", "python"} == report["versions"].keys()
    beside = found["7B: beside the reference"]["figures"]
    assert [(figure["task"], figure["path"]) for figure in beside] == [
        (task, path) for path in ("reference", "package") for task in ("evaluation", "training")
    ]
    assert all(figure["samples_per_s"] > 0 for figure in beside)
    trained = [part for part in found.values() if "prefix" in part["name"]]
    assert len(trained) == 8
    for part in trained:
        *epochs, last = part["figures"]
        assert len(epochs) == (4 if part["name"].startswith("tiny") else 2)
        best = max(epochs, key=lambda figure: figure["valid"]["ndcg@10"])
        assert last["best_epoch"] == best["epoch"] and 0 <= last["test"]["ndcg@10"] <= 1
    assert (tmp_path / "out/report.md").read_text().count("\n| pretrained") == 5


def test_missing_packages_are_named(tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "python")}
    command = [str(BENCHMARKS / "gpu_report.sh"), "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # noqa: S603
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_report.sh needs these Python packages: torch transformers")
