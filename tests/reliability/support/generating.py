"""Hypothesis in forks: many generated inputs, each of which ends well or in a sentence.

All examples are tried, whether one failed or not; a failure shows the whole input.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from reliability.support.forks import call
from reliability.support.verdicts import FINE, Kind, Verdict
from reliability.support.workshop import copied

from recbole_hellm.errors import HellmError

SECONDS = 30.0
"""After which an example is taken to hang."""
SHOWN = 1500  # characters of an input

Attempt = Callable[[Any], str]
"""Tries an example; raises :class:`HellmError`, or returns what was lost."""
Part = tuple[st.SearchStrategy[Any], Attempt]


class _Late(BaseException):
    """An example took too long."""


def _late(*_: object) -> None:
    raise _Late


def batch(module: str, part: str, seed: int, examples: int, template: str | None) -> list[Verdict]:
    """Try a part's examples in a fork, in a copy of a folder.

    Parameters
    ----------
    module, part : str
        ``PARTS[part]`` of the module holds the strategy and the attempt.
    seed, examples : int
    template : str, optional
    """
    with copied(Path(template) if template else None) as folder:
        result = folder.parent / "verdicts"

        def carry_out() -> int:
            import importlib

            strategy, attempt = importlib.import_module(module).PARTS[part]
            verdicts = _tried(part, strategy, attempt, seed, examples)
            result.write_bytes(pickle.dumps(verdicts))
            return 0

        ended = call(carry_out, folder, limit=SECONDS * 20)
        if ended.status == 0:
            verdicts: list[Verdict] = pickle.loads(result.read_bytes())  # noqa: S301 (its own)
            return verdicts
        kind = Kind.HANG if ended.status is None else Kind.TRACEBACK
        return [Verdict(f"{part}, seed {seed}", kind, f"{ended.status}: {ended.err[-2000:]}")]


def _tried(
    part: str, strategy: st.SearchStrategy[Any], attempt: Attempt, seed: int, examples: int
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    signal.signal(signal.SIGALRM, _late)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def each(example: Any) -> None:
        kind, detail = _one(attempt, example)
        shown = "" if kind in FINE else f"{example!r}"[:SHOWN]
        verdicts.append(Verdict(f"{part}, seed {seed}: {shown}", kind, detail))

    each()
    return verdicts


def _one(attempt: Attempt, example: Any) -> tuple[Kind, str]:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        lost = attempt(example)
    except HellmError as error:
        sentence = str(error)
        one = "\n" not in sentence and sentence.endswith((".", "'"))
        return (Kind.SENTENCE, sentence) if one else (Kind.VAGUE, f"not one sentence: {sentence!r}")
    except _Late:
        return Kind.HANG, f"more than {SECONDS:.0f} s"
    except Exception:
        return Kind.TRACEBACK, "".join(traceback.format_exc().splitlines(keepends=True)[-6:])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return (Kind.SILENT, lost) if lost else (Kind.SAME, "")


@contextlib.contextmanager
def emptied(*names: str) -> Iterator[Path]:
    """The working folder, in which folders of these names do not exist."""
    folder = Path.cwd()
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()
    yield folder


class Failed(HellmError):  # noqa: N818 (what a command did)
    """The sentence of a command line."""


def give(*words: str) -> str:
    """Give a command; returns what it prints.

    Raises
    ------
    Failed
        If it ends in a sentence.
    AssertionError
        If it ends in another way.
    """
    from recbole_hellm.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    if status == 0:
        return out.getvalue()
    lines = [line for line in err.getvalue().splitlines() if line.startswith("recbole-hellm: ")]
    if status == 2 and len(lines) == 1 and err.getvalue().endswith(f"{lines[0]}\n"):
        raise Failed(lines[0].removeprefix("recbole-hellm: "))
    raise AssertionError(f"status {status}: {err.getvalue()[-1000:]}")
