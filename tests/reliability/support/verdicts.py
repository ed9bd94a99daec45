"""What became of a try, and counts of it."""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Iterable

from reliability.support.forks import DEFECT, Ended


class Kind(enum.Enum):
    """How a try may end; the last four must not happen."""

    SAME = "same"  # the outcome is that of an undisturbed command, to the bit
    SENTENCE = "sentence"  # one sentence that names what is at fault
    SILENT = "silent"  # another outcome without a word, or something lost
    VAGUE = "vague"  # a sentence that does not name the file
    TRACEBACK = "traceback"
    HANG = "hang"


FINE = frozenset({Kind.SAME, Kind.SENTENCE})


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of one try.

    Attributes
    ----------
    name : str
        What was tried, so that it can be tried again.
    kind : Kind
    detail : str
        What was wrong.
    """

    name: str
    kind: Kind
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.name}: {self.detail}"


def judge(ended: Ended, names: Iterable[str] = ()) -> tuple[Kind, str] | None:
    """The kind of an end that is an error; None for a command that succeeded.

    Parameters
    ----------
    ended : Ended
    names : iterable of str
        One of them must be in the sentence, if there are any.
    """
    if ended.status is None:
        return Kind.HANG, f"no end after {ended.seconds:.0f} s"
    if ended.status == DEFECT or "Traceback (most recent call last)" in ended.err:
        return Kind.TRACEBACK, "\n".join(ended.err.strip().splitlines()[-7:])
    if ended.status < 0:
        return Kind.TRACEBACK, f"died of signal {-ended.status}"
    if ended.status == 0:
        return None
    wanted = list(names)
    if not ended.sentence.startswith("recbole-hellm: "):
        return Kind.VAGUE, f"status {ended.status} without a sentence: {ended.sentence}"
    if wanted and not any(name in ended.sentence for name in wanted):
        return Kind.VAGUE, f"{ended.sentence} (does not name {wanted[0]})"
    return Kind.SENTENCE, ended.sentence


class Tally:
    """Counts of verdicts by the part of the suite."""

    def __init__(self) -> None:
        self.counts: dict[str, collections.Counter[str]] = {}
        self.bad: list[str] = []

    def add(self, part: str, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """Count verdicts; returns those that must not be."""
        counts = self.counts.setdefault(part, collections.Counter())
        bad = []
        for verdict in verdicts:
            counts[verdict.kind.value] += 1
            if verdict.kind not in FINE:
                bad.append(verdict)
        self.bad += [f"{part}: {verdict}" for verdict in bad]
        return bad

    def table(self) -> list[str]:
        """Lines for the end of the test session."""
        heads = ["tried", *(kind.value for kind in Kind)]
        width = max(map(len, [*self.counts, "part"]))
        lines = ["  ".join(["part".ljust(width), *(head.rjust(9) for head in heads)])]
        total: collections.Counter[str] = collections.Counter()
        for part, counts in self.counts.items():
            lines.append(_row(part.ljust(width), counts))
            total += counts
        return [*lines, _row("all".ljust(width), total)]


def _row(name: str, counts: collections.Counter[str]) -> str:
    cells = [sum(counts.values()), *(counts[kind.value] for kind in Kind)]
    return "  ".join([name, *(f"{cell:,}".rjust(9) for cell in cells)])


def explain(bad: list[Verdict], most: int = 40) -> str:
    """The message of a failed test."""
    lines = [str(verdict) for verdict in bad[:most]]
    if len(bad) > most:
        lines.append(f"... and {len(bad) - most} more")
    return "\n".join([f"{len(bad)} tries failed:", *lines])
