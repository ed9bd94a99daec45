"""The scripts of ``benchmarks/`` compute what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
QUICK = ["--users=8", "--samples=16", "--reference-users=2", "--reference-samples=7"]
QUICK += ["--batch=8", "--eval-users=4", "--threads=1", "--no-compile", "--dtype=float32"]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (["--sizes", "2", "16", "20", "2", "1"], 4),
        (["--sizes", "1", "16", "20", "2", "2", "--prefix=static", "--projection=direct"], 5),
        (["--sizes", "1", "16", "20", "2", "2", "--prefix=none", "--checkpointing"], 5),
    ],
    ids=["graph", "static", "none"],
)
def test_throughput_script_checks_the_reference_and_prints_ratios(
    options: list[str], rows: int
) -> None:
    command = [sys.executable, str(BENCHMARKS / "llm_throughput.py"), *QUICK, *options]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "relative differences of scores" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(("training", "evaluat"))]
    assert len(lines) == rows
    assert all(line.endswith("x") for line in lines)


def test_scale_of_neighbours_is_measured_and_checked() -> None:
    options = ["--items=3000", "--dim=8", "--k=4", "--threads=1", "--checked=20"]
    command = [sys.executable, str(BENCHMARKS / "knn_scale.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "3,000 items x 8, K=4" in done.stdout
    assert done.stdout.rstrip().endswith("0 wrong of 80 neighbours checked")
