"""Benchmarks of whole jobs on the bundled sample, and the page that is made from their lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import run_all
from measuring import Goal

BENCHMARKS = Path(run_all.__file__).parent
SMALL = {
    "pretrain_epoch": ["--epochs=1", "--literal-steps=1", "--threads=1"],
    "evaluation": ["--times=1", "--threads=1"],
}


def line_of(name: str, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--dataset=sample", *options]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", SMALL)
def test_a_script_prints_figures_and_goals(name: str, tmp_path: Path) -> None:
    found = line_of(name, [*SMALL[name], f"--data-path={tmp_path}"])
    assert found["benchmark"] == name
    assert found["machine"]["threads"] == 1
    assert all(value > 0 for value in found["figures"].values())
    assert found["goals"]
    for goal in found["goals"]:
        below = goal["value"] <= goal["limit"]
        assert goal["reached"] == (below if goal["at_most"] else goal["value"] >= goal["limit"])
    page = run_all.section(name, found | {"command": "python ..."})
    assert page.count("\n| ") == len(found["goals"]) + len(found["figures"]) + 4
    assert ("**not reached**" in page) != all(goal["reached"] for goal in found["goals"])


def test_the_page_is_made_of_the_kept_lines() -> None:
    assert (BENCHMARKS / "README.md").read_text(encoding="utf-8") == run_all.page(
        BENCHMARKS / "results"
    )
    assert set(run_all.TITLES) == set(run_all.COMMANDS)
    for name, command in run_all.COMMANDS.items():
        assert (BENCHMARKS / command.split()[0]).is_file()
        kept = BENCHMARKS / "results" / f"{name}.json"
        if kept.is_file():
            result = json.loads(kept.read_text(encoding="utf-8"))
            assert result["command"] == f"python benchmarks/{command}"


def test_what_was_not_measured_is_said_to_be(tmp_path: Path) -> None:
    assert run_all.page(tmp_path).count("Not measured") == len(run_all.COMMANDS)


@pytest.mark.parametrize(
    ("value", "at_most", "reached"), [(1.0, True, True), (3.0, True, False), (3.0, False, True)]
)
def test_a_goal_is_reached_on_its_side_of_the_limit(
    value: float, at_most: bool, reached: bool
) -> None:
    assert Goal("seconds", value, 2.0, at_most).reached == reached


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (12.34, "12.3"), (1234.5, "1,234"), (7, "7")]
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert run_all.shown(value) == text
