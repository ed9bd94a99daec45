"""Commands at the same time, on full disks and read-only folders, and interrupted by signals."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

from reliability.support.forks import Ended, Fault, call, command, running, start
from reliability.support.states import difference, state
from reliability.support.verdicts import Kind, Verdict, judge
from reliability.support.workshop import copied
from reliability.support.worlds import with_ids

Words = tuple[str, ...]
SOON = 15.0
"""Seconds within which an interrupted command must end, on a busy machine."""
_STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


def undisturbed(template: str, commands: tuple[Words, ...]) -> dict[str, str]:
    """The state after commands, one after the other."""
    with copied(Path(template)) as folder:
        for words in commands:
            ended = call(command(words), folder)
            assert ended.status == 0, f"{words}: {ended.err}"
        return state(folder)


def together(
    name: str, template: str, commands: tuple[Words, ...], wanted: dict[str, str]
) -> list[Verdict]:
    """Several commands at once; those that were refused are given again afterwards."""
    with copied(Path(template)) as folder:
        with running([start(command(words), folder) for words in commands]) as children:
            ends = [child.wait() for child in children]
        verdicts = []
        for number, ended in enumerate(ends):
            problem = judge(ended)
            who = f"{name}, number {number}"
            verdicts.append(Verdict(who, *problem) if problem else Verdict(who, Kind.SAME))
        for words in commands:
            verdicts.append(_after(f"{name}, then {words[0]} again", words, folder))
        other = difference(wanted, state(folder))
        return [
            *verdicts,
            Verdict(f"{name}: in the end", Kind.SILENT if other else Kind.SAME, other),
        ]


def _after(name: str, words: Words, folder: Path) -> Verdict:
    problem = judge(call(command(words), folder))
    if problem is None or problem[0] is Kind.SENTENCE:  # there is nothing left to do
        return Verdict(name, Kind.SAME)
    return Verdict(name, *problem)


def disturb(
    template: str, words: Words, fault: Fault, wanted: dict[str, str], again: Words | None = None
) -> list[Verdict]:
    """A command that a fault befalls: one sentence; then it is given again without the fault."""
    name = f"{' '.join(words[:2])} with {_called(fault)}"
    with copied(Path(template)) as folder:
        words = with_ids(words, folder)
        ended = call(command(words), folder, fault)
        verdicts = [_first(name, ended, fault, wanted, folder)]
        if verdicts[0].kind is Kind.HANG:
            return verdicts
        second = f"{name}, then {'again' if again is None else ' '.join(again[-1:])}"
        ended = call(command(with_ids(again or words, folder)), folder)
        problem = judge(ended)
        other = difference(wanted, state(folder))
        if problem is not None and problem[0] is not Kind.SENTENCE:
            verdicts.append(Verdict(second, *problem))
        elif other:
            detail = f"{problem[1]} ({other})" if problem else other
            verdicts.append(Verdict(second, Kind.SILENT, detail))
        else:
            verdicts.append(Verdict(second, Kind.SAME))
        return verdicts


def _first(name: str, ended: Ended, fault: Fault, wanted: dict[str, str], folder: Path) -> Verdict:
    if ended.status in _STOPPED and fault.signal != signal.SIGKILL:
        return Verdict(name, Kind.SENTENCE, ended.sentence)
    problem = judge(ended)
    if problem is not None:
        return Verdict(name, *problem)
    other = difference(wanted, state(folder))
    return Verdict(name, Kind.SILENT if other else Kind.SAME, other)


def _called(fault: Fault) -> str:
    if fault.largest is not None:
        return f"files of at most {fault.largest} bytes"
    if fault.error:
        return f"{errno.errorcode[fault.error]} from operation {fault.at} on"
    return f"{signal.Signals(fault.signal).name} at operation {fault.at}"


def interrupt(
    template: str, words: Words, after: float, number: int, again: Words, wanted: dict[str, str]
) -> list[Verdict]:
    """A signal at any time: it ends within seconds, and the command can go on."""
    import time

    name = f"{' '.join(words[:2])} with signal {number} after {after:.2f} s"
    with copied(Path(template)) as folder:
        child = start(command(words), folder)
        time.sleep(after)
        sent = time.monotonic()
        child.kill(number)
        ended = child.wait(limit=after + SOON)
        late = time.monotonic() - sent
        if ended.status is None:
            return [Verdict(name, Kind.HANG, f"no end {late:.0f} s after the signal")]
        verdicts = [
            Verdict(name, Kind.SAME)
            if ended.status in (0, *_STOPPED, -signal.SIGKILL)
            else Verdict(name, *(judge(ended) or (Kind.SILENT, f"status {ended.status}")))
        ]
        ended = call(command(again), folder)
        problem = judge(ended)
        other = difference(wanted, state(folder))
        second = f"{name}, then {again[-1]}"
        if problem is not None:
            verdicts.append(
                Verdict(
                    second, Kind.SILENT if problem[0] is Kind.SENTENCE else problem[0], problem[1]
                )
            )
        else:
            verdicts.append(Verdict(second, Kind.SILENT if other else Kind.SAME, other))
        return verdicts


def small(name: str, log: str, words: Words) -> list[Verdict]:
    """A run on odd data, or with odd settings: it ends well or in a sentence, nothing half done."""
    with copied(None) as folder:
        (folder / "log.csv").write_text(log, encoding="utf-8")
        made = call(
            command(("prepare", "--dataset=shop", "--data_path=data", "--interactions=log.csv")),
            folder,
        )
        problem = judge(made)
        if problem is not None:
            return [Verdict(f"{name}: prepare", *problem)]
        ended = call(command(words), folder)
        problem = judge(ended)
        left = [path.name for path in folder.rglob("*") if path.suffix in (".tmp", ".lock")]
        verdict = Verdict(name, *problem) if problem else Verdict(name, Kind.SAME)
        if left:
            return [verdict, Verdict(name, Kind.SILENT, f"left over: {left}")]
        return [verdict]
