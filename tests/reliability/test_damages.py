"""Every file that the package writes is damaged: the same result, or a sentence that names it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reliability.support import damages, worlds
from reliability.support.damages import Reader
from reliability.support.workshop import Workshop
from reliability.support.worlds import BPR, COMPARE, DATA, ENCODE, HELLM, QUIET, TUNE

from recbole_hellm.cli.main import COMMANDS

pytestmark = pytest.mark.reliability

EACH = 7
"""Damages of each file but in the long form."""
UNCHECKED = ("events.out.tfevents", ".lock")
"""Files whose damage changes no result: TensorBoard reads up to it."""


def readers(folder: Path) -> dict[str, tuple[str, dict[str, Reader]]]:
    """By kind of file: a pattern, and the commands that read such files."""
    bpr, hellm = (worlds.run_of(folder, model) for model in ("BPR", "HeLLM"))
    pre, sasrec = (worlds.run_of(folder, model) for model in ("HeLLMPre", "SASRec"))
    lists = ("--all_users", "--topk=3", "--output=lists.csv")

    def recommend(run: str) -> Reader:
        return Reader(("recommend", f"--run={run}", *lists), ("lists.csv",))

    def report(*runs: str) -> Reader:
        return Reader(("report", *runs, "--output=report.html"), ("report.html",))

    def check(what: str) -> dict[str, Reader]:
        return {"check": Reader(("check", what))} if "check" in COMMANDS else {}

    results = ("runs/shop/*/*/metrics.json", "runs/shop/*/*/ranks*.parquet")
    again = {"run again": Reader(BPR)}
    kept = Reader((*COMPARE, "--kept_only"), ("tables/*",))
    reuse = Reader((*HELLM, "--HeLLM.learning_rate=0.02"), results)
    seed = Reader((*BPR, "--seed=7"), results)
    pictures = ("run", "--model=VBPR", *DATA, *QUIET, "--epochs=1", "--embedding_size=8")
    return {
        "run of BPR": (
            f"{bpr}/*",
            {"recommend": recommend(bpr), "report": report(bpr), **again, **check(bpr)},
        ),
        "run of HeLLM": (
            f"{hellm}/**/*",
            {"recommend": recommend(hellm), "report": report(bpr, hellm), **check(hellm)},
        ),
        "stage HeLLMPre": (f"{pre}/*", {"stage reuse": reuse}),
        "stage SASRec": (f"{sasrec}/*", {"stage reuse": reuse, "report": report(hellm)}),
        "records": ("records/**/*", {"compare": kept, **check("records")}),
        "dataset": (
            "data/shop/*.*",
            {"recommend": recommend(bpr), "run": seed, "run again": Reader(BPR)},
        ),
        "features": (
            "data/shop/features/*",
            {
                "run": Reader((*pictures, "--features=[text-tfidf]"), results),
                "encode": Reader(ENCODE),
            },
        ),
        "studies": (
            "studies*/**/*",
            {"tune": Reader(TUNE, ("studies/**/*.yaml",))},
        ),
        "journal": ("studies.log", {"tune": Reader(TUNE, ("studies/**/*.yaml",))}),
    }


KINDS = (
    *("run of BPR", "run of HeLLM", "stage HeLLMPre", "stage SASRec", "records", "dataset"),
    *("features", "studies", "journal"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named(
    kind: str,
    workshop: Workshop,
    stages: dict[str, str],
    some: Callable[..., list[Any]],
    long: bool,
    report: Callable[..., None],
) -> None:
    template = stages["records"]
    pattern, commands = readers(Path(stages["runs"]))[kind]
    attack_all(kind, template, pattern, commands, workshop, some, long, report)


def test_a_damaged_checkpoint_is_named(
    workshop: Workshop,
    stages: dict[str, str],
    root: Path,
    some: Callable[..., list[Any]],
    long: bool,
    report: Callable[..., None],
) -> None:
    halted = root / "halted"
    words = (*BPR, "--seed=11")
    workshop.call(damages.halt, stages["data"], str(halted), words)
    outputs = ("runs/shop/*/*/metrics.json", "runs/shop/*/*/best.pt")
    resume = {"resume": Reader((*words, "--resume"), outputs), "run": Reader(words, outputs)}
    attack_all(
        "unfinished run", str(halted), "runs/shop/BPR/*/*", resume, workshop, some, long, report
    )


def test_there_were_enough(short: bool, tried: Callable[[str], int]) -> None:
    count = tried("damage ")
    if short or count == 0:
        pytest.skip("counts the tries of the whole suite")
    assert count >= 1000


def attack_all(
    kind: str,
    template: str,
    pattern: str,
    commands: dict[str, Reader],
    workshop: Workshop,
    some: Callable[..., list[Any]],
    long: bool,
    report: Callable[..., None],
) -> None:
    """Damage all files of a pattern, each in some of the ways, or in all."""
    folder = Path(template)
    wanted = {
        name: workshop.call(damages.undisturbed, template, reader)
        for name, reader in commands.items()
        if reader.words[0] != "check"
    } | {"check": {}}
    tries = []
    for path in sorted(folder.glob(pattern)):
        if not path.is_file() or any(mark in path.name for mark in UNCHECKED):
            continue
        file = path.relative_to(folder).as_posix()
        sibling = next(damages.siblings(folder, file), None)
        other = folder / sibling if sibling else None
        ways = damages.damages(path, other)
        if not long:
            ways = random.Random(file).sample(ways, min(EACH, len(ways)))  # noqa: S311
        tries += [
            (template, file, damage, sibling, _turn(commands, number), wanted)
            for number, damage in enumerate(ways)
        ]
    verdicts = workshop.map(damages.attack, some(tries, 5))
    report(f"damage {kind}", [verdict for part in verdicts for verdict in part])


def _turn(commands: dict[str, Reader], number: int) -> dict[str, Reader]:
    """Two of the commands, each in turn; `check` is always one of them."""
    others = [name for name in commands if name != "check"]
    kept = ["check"] if "check" in commands else others[(number + 1) % len(others) :][:1]
    return {name: commands[name] for name in (others[number % len(others)], *kept)}
