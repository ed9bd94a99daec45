"""A command that is killed at one of its file operations, and given again."""

from __future__ import annotations

import shutil
from pathlib import Path

from reliability.support.forks import Fault, call, command
from reliability.support.states import difference, state
from reliability.support.verdicts import Kind, Verdict, judge
from reliability.support.workshop import copied
from reliability.support.worlds import with_ids

Words = tuple[str, ...]


def points(operations: tuple[str, ...]) -> list[int]:
    """Operations to stop at: all, but of those that append to a file of TensorBoard the first."""
    seen: set[str] = set()
    found = []
    for number, operation in enumerate(operations):
        if "tfevents" not in operation or operation not in seen:
            found.append(number)
        seen.add(operation)
    return found


def crash(
    template: str, words: Words, at: int, wanted: dict[str, str], again: tuple[Words, ...]
) -> list[Verdict]:
    """Kill a command before file operation `at`; each of `again` must lead to the state `wanted`.

    A command may also say in one sentence that there is nothing left to do.
    """
    verdicts = []
    with copied(Path(template)) as folder:
        first = call(command(with_ids(words, folder)), folder, Fault(at=at))
        if first.status is not None and first.status >= 0:
            name = f"{' '.join(words[:2])} killed at {at}"
            problem = judge(first)
            if problem is not None:  # before the kill
                return [Verdict(name, Kind.SILENT, f"it ended before: {problem[1]}")]
            return []
        where = _last(folder)
        for number, next_words in enumerate(again):
            here = folder
            if number + 1 < len(again):
                here = folder.with_name(f"again{number}")
                shutil.copytree(folder, here)
            name = (
                f"{' '.join(words[:2])}{' --force' if '--force' in words else ''} killed at "
                f"{at}{where}, then {' '.join(w for w in next_words if w not in words) or 'again'}"
            )
            ended = call(command(with_ids(next_words, here)), here)
            verdicts.append(_judged(name, ended, wanted, here))
    return verdicts


def _judged(name: str, ended: object, wanted: dict[str, str], folder: Path) -> Verdict:
    problem = judge(ended)  # type: ignore[arg-type]
    if problem is not None and problem[0] is not Kind.SENTENCE:
        return Verdict(name, *problem)
    other = difference(wanted, state(folder))
    if problem is None:
        return Verdict(name, Kind.SILENT if other else Kind.SAME, other)
    if other:  # a dead end
        return Verdict(name, Kind.SILENT, f"{problem[1]} ({other})")
    return Verdict(name, *problem)


def _last(folder: Path) -> str:
    """The file that was touched last, for messages."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
    return f" (after {newest.relative_to(folder)})" if newest else ""
