"""Files that are damaged in one place, and the commands that read them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from reliability.support.forks import Ended, call, command
from reliability.support.states import digest, told
from reliability.support.verdicts import Kind, Verdict, judge
from reliability.support.workshop import copied

DEEP = 200_000
OTHERS: tuple[Any, ...] = ([], {"a": 1}, "text", -1, None, True, [[1]], 1e400)
"""Values of another type."""


def damages(path: Path, sibling: Path | None) -> list[str]:
    """Names of the ways in which a file can be damaged; see :func:`apply`."""
    size = path.stat().st_size
    names = ["delete", "empty", "pipe", "folder", "add garbage"]
    if size > 8:
        names += [f"cut at {percent}" for percent in (1, 25, 50, 75, 99)]
        # The ends of a file hold what describes it; weights are in the middle.
        names += [f"flip bit {n % 8} at {percent}" for n, percent in enumerate(FLIPS)]
        names += ["zeros", "not UTF-8"]
    if sibling is not None and sibling.read_bytes() != path.read_bytes():
        names.append("swap")
    if path.suffix in (".json", ".yaml"):
        names += ["deep", "a list", "a number"]
        content = _parsed(path, path.read_text(encoding="utf-8"))
        keys = sorted(content) if isinstance(content, dict) else []
        names += [f"without {key}" for key in keys]
        names += [f"other {key} {n % len(OTHERS)}" for n, key in enumerate(keys)]
    return names


FLIPS = (0, 1, 7, 20, 35, 50, 63, 80, 93, 99)


def apply(path: Path, damage: str, sibling: Path | None) -> None:
    """Damage a file.

    Raises
    ------
    ValueError
        If that changes nothing.
    """
    before = path.read_bytes()
    kind, *words = damage.split(" ")
    if damage == "delete":
        path.unlink()
        return
    if damage in ("pipe", "folder"):
        path.unlink()
        os.mkfifo(path) if damage == "pipe" else path.mkdir()
        return
    after = _changed(path, before, kind, damage, words, sibling)
    if after == before:
        raise ValueError(damage)
    path.write_bytes(after)


def _changed(
    path: Path, before: bytes, kind: str, damage: str, words: list[str], sibling: Path | None
) -> bytes:
    size = len(before)
    if damage == "empty":
        return b""
    if damage == "add garbage":
        return before + b"\x00\xffgarbage"
    if kind == "cut":
        return before[: max(1, size * int(words[-1]) // 100)]
    if kind == "flip":
        place = min(size - 1, size * int(words[-1]) // 100)
        return before[:place] + bytes([before[place] ^ 1 << int(words[1])]) + before[place + 1 :]
    if damage == "zeros":
        return before[: size // 2] + bytes(min(16, size - size // 2)) + before[size // 2 + 16 :]
    if damage == "not UTF-8":
        return before[: size // 2] + b"\xff\xfe" + before[size // 2 :]
    if damage == "swap":
        assert sibling is not None
        return sibling.read_bytes()
    if damage == "deep":
        return b"[" * DEEP + b"]" * DEEP
    if damage == "a list":
        return b"[1, 2]"
    if damage == "a number":
        return b"7"
    content = _parsed(path, before.decode())
    if kind == "without":
        del content[" ".join(words)]
    else:
        content[" ".join(words[:-1])] = OTHERS[int(words[-1])]
    return (json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content)).encode()


def _parsed(path: Path, text: str) -> Any:
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


class Reader:
    """A command that reads files, and the files that it writes.

    Parameters
    ----------
    words : tuple of str
    outputs : tuple of str
        Patterns of files whose content belongs to its result.
    """

    def __init__(self, words: tuple[str, ...], outputs: tuple[str, ...] = ()) -> None:
        self.words, self.outputs = words, outputs

    def carry_out(self, folder: Path) -> Ended:
        """Give the command."""
        return call(command(self.words), folder, limit=90)

    def result(self, ended: Ended, folder: Path) -> dict[str, str]:
        """What it printed and wrote."""
        found = {"output": told(ended.out)}
        for pattern in self.outputs:
            for path in sorted(folder.glob(pattern)):
                if path.is_file():
                    found[path.relative_to(folder).as_posix()] = digest(path)
        return found

    def undisturbed(self, template: str) -> dict[str, str]:
        """Its result where nothing is damaged."""
        with copied(Path(template)) as folder:
            ended = self.carry_out(folder)
            if ended.status != 0:
                raise AssertionError(f"{self.words}: {ended.status}\n{ended.out}\n{ended.err}")
            return self.result(ended, folder)


def undisturbed(template: str, reader: Reader) -> dict[str, str]:
    """See :meth:`Reader.undisturbed`."""
    return reader.undisturbed(template)


def attack(
    template: str,
    file: str,
    damage: str,
    sibling: str | None,
    readers: dict[str, Reader],
    wanted: dict[str, dict[str, str]],
) -> list[Verdict]:
    """Damage a file, and let commands read it, each in a copy of its own."""
    verdicts = []
    for name, reader in readers.items():
        with copied(Path(template)) as folder:
            path = folder / file
            try:
                apply(path, damage, folder / sibling if sibling else None)
            except ValueError:
                return []
            verdicts.append(
                _verdict(f"{name} with {file}: {damage}", reader, folder, path, wanted[name])
            )
    return verdicts


def _verdict(
    name: str, reader: Reader, folder: Path, path: Path, wanted: dict[str, str]
) -> Verdict:
    ended = reader.carry_out(folder)
    # A file without its pair may be what is missing; of one that is gone, the folder will do.
    names = [path.name, f"{path.stem}."] + ([path.parent.name] if not path.is_file() else [])
    if reader.words[0] == "check" and ended.status == 1:  # it lists what is damaged
        named = any(one in ended.out for one in names)
        return Verdict(name, Kind.SENTENCE if named else Kind.VAGUE, ended.out[-300:])
    problem = judge(ended, names)
    if problem is not None:
        return Verdict(name, *problem)
    found = reader.result(ended, folder)
    if reader.words[0] == "check":
        return Verdict(name, Kind.SILENT, f"found nothing: {ended.out[-200:]}")
    own = path.relative_to(folder).as_posix()  # whether it is mended is another matter
    differing = [key for key in {*wanted, *found} - {own} if wanted.get(key) != found.get(key)]
    if not differing:
        return Verdict(name, Kind.SAME)
    if any(one in ended.err for one in names):  # a warning that names the file
        return Verdict(name, Kind.SENTENCE, ended.sentence)
    return Verdict(
        name, Kind.SILENT, f"{', '.join(sorted(differing))} differs: {_shown(wanted, found)}"
    )


def _shown(wanted: dict[str, str], found: dict[str, str]) -> str:
    pairs = itertools.zip_longest(wanted["output"].splitlines(), found["output"].splitlines())
    return next((f"{before!r} became {after!r}" for before, after in pairs if before != after), "")


def siblings(folder: Path, file: str) -> Iterator[str]:
    """Files of the same name in other folders, or of the same kind beside it."""
    path = folder / file
    for other in sorted(folder.rglob(path.name)):
        if other != path and other.is_file():
            yield other.relative_to(folder).as_posix()
    for other in sorted(path.parent.glob(f"*{path.suffix}")):
        if other != path and other.is_file():
            yield other.relative_to(folder).as_posix()


def halt(template: str, target: str, words: tuple[str, ...]) -> None:
    """Copy a folder, in which a run then dies after its first epoch."""
    shutil.copytree(template, target)

    def die() -> int:
        from recbole_hellm.training.trainer import RunTrainer

        original = RunTrainer._save_checkpoint

        def dying(self: Any, epoch: int, *arguments: Any, **named: Any) -> None:
            original(self, epoch, *arguments, **named)
            os._exit(0)

        RunTrainer._save_checkpoint = dying  # type: ignore[method-assign]
        return command(words)()

    ended = call(die, Path(target))
    assert ended.status == 0, ended.err
