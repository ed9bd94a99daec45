"""Every command is killed at each of its file operations: the next one completes the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from reliability.support import crashes, worlds
from reliability.support.workshop import Workshop
from reliability.support.worlds import BPR, COMPARE, ENCODE, HELLM, IMPORT, PREPARE, TUNE

pytestmark = pytest.mark.reliability

FORCE = "--force"
MANY = 120
# Command, the stage it starts from, and what is given after the kill.
COMMANDS: dict[str, tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "prepare": ("inputs", PREPARE, (PREPARE,)),
    "prepare again": ("data", PREPARE, (PREPARE,)),
    "encode": ("prepared", ENCODE, (ENCODE,)),
    "import": ("prepared", IMPORT, (IMPORT,)),
    "encode --force": ("data", (*ENCODE, FORCE), ((*ENCODE, FORCE),)),
    "import --force": ("data", (*IMPORT, FORCE), ((*IMPORT, FORCE),)),
    "run BPR": ("data", BPR, (BPR, (*BPR, "--resume"))),
    "run BPR --force": ("runs", (*BPR, FORCE), ((*BPR, FORCE), BPR, (*BPR, "--resume"))),
    "run HeLLM": ("data", HELLM, (HELLM, (*HELLM, "--resume"))),
    "run HeLLM --force": ("runs", (*HELLM, FORCE), (HELLM, (*HELLM, "--resume"))),
    "tune": ("data", TUNE, (TUNE,)),
    "compare": ("runs", COMPARE, (COMPARE,)),  # trains one of its models, and takes one as it is
    "report": ("runs", worlds.REPORT, (worlds.REPORT,)),
    "recommend": ("runs", worlds.RECOMMEND, (worlds.RECOMMEND,)),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_loses_nothing(
    name: str,
    workshop: Workshop,
    stages: dict[str, str],
    some: Callable[..., list[Any]],
    report: Callable[..., None],
) -> None:
    stage, words, again = COMMANDS[name]
    template = stages[stage]
    wanted, _, operations = workshop.call(worlds.golden, template, words)
    points = some(crashes.points(operations), 3)
    if len(points) > MANY:  # a long command is given again in one way only, each in turn
        tries = [
            (template, words, at, wanted, again[number % len(again) :][:1])
            for number, at in enumerate(points)
        ]
    else:
        tries = [(template, words, at, wanted, again) for at in points]
    verdicts = workshop.map(crashes.crash, tries)
    report(f"crash {name}", [verdict for part in verdicts for verdict in part])
