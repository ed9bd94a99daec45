"""The workshop that all tests of reliability share, and the table of counts at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reliability.support import worlds
from reliability.support.verdicts import Tally, Verdict, explain
from reliability.support.workshop import Workshop

FORM = os.environ.get("HELLM_RELIABILITY", "")
"""``short``, for continuous integration, tries a part of each list; ``long`` every damage."""
SHORT = FORM == "short"
TALLY = Tally()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TALLY.counts:
        terminalreporter.section("reliability")
        for line in TALLY.table():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def short() -> bool:
    """Whether the short form runs."""
    return SHORT


@pytest.fixture(scope="session")
def some() -> Callable[..., list[Any]]:
    """``some(tries, most)``: all of them, or in the short form about `most`, evenly spread."""

    def pick(tries: list[Any], most: int) -> list[Any]:
        step = max(1, -(-len(tries) // most)) if SHORT else 1
        return tries[::step]

    return pick


@pytest.fixture(scope="session")
def long() -> bool:
    """Whether the long form runs."""
    return FORM == "long"


@pytest.fixture(scope="session")
def report() -> Callable[[str, list[Verdict]], None]:
    """``report(part, verdicts)``: count them, and fail if one of them must not be."""

    def count(part: str, verdicts: list[Verdict]) -> None:
        assert verdicts, "nothing was tried"
        bad = TALLY.add(part, verdicts)
        if bad and (folder := os.environ.get("HELLM_RELIABILITY_LOG")):
            with open(folder, "a", encoding="utf-8") as file:
                file.write("".join(f"{part}: {verdict}\n" for verdict in bad))
        if bad:
            pytest.fail(explain(bad), pytrace=False)

    return count


@pytest.fixture(scope="session")
def tried() -> Callable[[str], int]:
    """``tried(part)``: how many tries there were of the parts that begin so."""
    return lambda start: sum(
        sum(counts.values()) for part, counts in TALLY.counts.items() if part.startswith(start)
    )


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all tries."""
    return tmp_path_factory.mktemp("reliability")


@pytest.fixture(scope="session")
def workshop(root: Path) -> Iterator[Workshop]:
    """Processes that have imported everything."""
    made = Workshop(root)
    yield made
    made.close()


@pytest.fixture(scope="session")
def stages(workshop: Workshop, root: Path) -> dict[str, str]:
    """Folders by stage: inputs, data, runs, records."""
    paths: dict[str, str] = workshop.call(worlds.build, root)
    workshop.everywhere(worlds.warm, root)
    return paths
