"""Commands at once, full disks, read-only folders, signals, and data and settings at the limits."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reliability.support import loads, worlds
from reliability.support.forks import Fault
from reliability.support.workshop import Workshop
from reliability.support.worlds import BPR, COMPARE, ENCODE, HELLM, IMPORT, PREPARE, QUIET, TUNE

pytestmark = pytest.mark.reliability

OTHER = (*BPR, "--seed=7")
POP = ("run", "--model=Pop", *worlds.DATA, *QUIET)
TOGETHER: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "the same run twice": ("data", (BPR, BPR)),
    "HeLLM twice": ("data", (HELLM, HELLM)),
    "different runs": ("data", (BPR, OTHER, POP)),
    "four prepares": ("inputs", (PREPARE,) * 4),
    "two encodes": ("prepared", (ENCODE, ENCODE)),
    "two imports": ("prepared", (IMPORT, IMPORT)),
    "two compares": ("data", (COMPARE, COMPARE)),
    "two searches": ("data", (TUNE, TUNE)),
}
COMMANDS = {
    "prepare": ("inputs", PREPARE),
    "encode": ("prepared", ENCODE),
    "import": ("prepared", IMPORT),
    "run BPR": ("data", BPR),
    "run HeLLM": ("data", HELLM),
    "tune": ("data", TUNE),
    "compare": ("data", COMPARE),
    "report": ("runs", worlds.REPORT),
    "recommend": ("runs", worlds.RECOMMEND),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_commands_at_the_same_time(
    name: str, workshop: Workshop, stages: dict[str, str], short: bool, report: Callable[..., None]
) -> None:
    stage, commands = TOGETHER[name]
    template = stages[stage]
    wanted = workshop.call(loads.undisturbed, template, tuple(dict.fromkeys(commands)))
    times = 1 if short else 4
    tries = [(name, template, commands, wanted)] * times
    parts = workshop.map(loads.together, tries)
    report("at once", [verdict for part in parts for verdict in part])


@pytest.mark.parametrize("name", COMMANDS)
def test_full_disks_and_read_only_folders(
    name: str,
    workshop: Workshop,
    stages: dict[str, str],
    short: bool,
    report: Callable[..., None],
) -> None:
    stage, words = COMMANDS[name]
    template = stages[stage]
    wanted, _, operations = workshop.call(worlds.golden, template, words)
    count = len(operations)
    parts = 2 if short else 12
    places = sorted({count * n // parts for n in range(parts)})
    faults = [Fault(at=place, error=errno.ENOSPC) for place in places]
    faults += [Fault(at=0, error=number) for number in (errno.EACCES, errno.EROFS)]
    faults += [Fault(at=place, error=errno.EROFS) for place in places[1::3]]
    faults += [Fault(largest=size) for size in (3000, 8000, 20000, 50000)[:: 2 if short else 1]]
    tries = [(template, words, fault, wanted) for fault in faults[:: 3 if short else 1]]
    verdicts = workshop.map(loads.disturb, tries)
    report("full or read-only", [verdict for part in verdicts for verdict in part])


@pytest.mark.parametrize("name", ["prepare", "run BPR", "run HeLLM", "tune", "compare"])
def test_signals(
    name: str, workshop: Workshop, stages: dict[str, str], short: bool, report: Callable[..., None]
) -> None:
    stage, words = COMMANDS[name]
    template = stages[stage]
    wanted, _, operations = workshop.call(worlds.golden, template, words)
    again = (*words, "--resume") if words[0] == "run" else words
    count = len(operations)
    tries = [
        (template, words, Fault(at=count * n // 6, signal=number), wanted, again)
        for number in (signal.SIGINT, signal.SIGTERM)
        for n in range(1, 2 if short else 6)
    ]
    verdicts = workshop.map(loads.disturb, tries)
    later = [
        (template, words, after, number, again, wanted)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[:: 2 if short else 1]
        for after in ((0.3,) if short else (0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.2))
    ]
    verdicts += workshop.map(loads.interrupt, later)
    report("signals", [verdict for part in verdicts for verdict in part])


HEAD = "user_id,item_id,timestamp\n"
ODD = {
    "one user": "".join(f"u,i{n},{n}\n" for n in range(6)),
    "one item": "".join(f"u{n},i,{n}\n" for n in range(6)),
    "one row": "u,i,1\n",
    "one item thrice": "u,i,1\nu,i,2\nu,i,3\n",
    "two rows each": "".join(f"u{n % 4},i{n % 3},{n}\n" for n in range(8)),
    "three rows each": "".join(f"u{n % 4},i{n % 5},{n}\n" for n in range(12)),
    "no rows": "",
}


@pytest.mark.parametrize("model", ["Pop", "BPR", "SASRec", "LightGCN", "HeLLM"])
def test_data_and_settings_at_the_limits(
    model: str,
    workshop: Workshop,
    stages: dict[str, str],
    some: Callable[..., list[Any]],
    report: Callable[..., None],
) -> None:
    base = ("run", f"--model={model}", *worlds.DATA, *QUIET, "--epochs=1", "--text_encoder=none")
    small = HELLM[4:] if model == "HeLLM" else ()
    sizes = tuple(
        word
        for word in small
        if word.partition("=")[0] not in {other.partition("=")[0] for other in base}
    )
    log = (Path(stages["inputs"]) / "log.csv").read_text(encoding="utf-8")
    tries: list[Any] = [
        (f"{model} on {name}", HEAD + rows, (*base, *sizes)) for name, rows in ODD.items()
    ]
    tries += [
        (f"{model} with {option}", log, (*base, *sizes, option))
        for option in ("--learning_rate=1e6", "--learning_rate=1e38", "--train_batch_size=1")
        if model != "Pop" and not any(option.startswith(size.partition("=")[0]) for size in sizes)
    ]
    verdicts = workshop.map(loads.small, some(tries, 3))
    report("limits", [verdict for part in verdicts for verdict in part])
