"""Bring ``docs/results`` and the README's tables up to date with the kept records.

    python benchmarks/readme_results.py

Every ``recbole-hellm compare ... --kept_only ...`` that the README shows is carried out, which runs
nothing and needs no data. A table that the README holds is replaced by the new one of its heading.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from recbole_hellm.cli.main import main

README = Path("README.md")
COMMAND = re.compile(r"`recbole-hellm (compare .*--kept_only.*--output=(\S+))`")
_HEADING = re.compile(r"(?m)^(?=### )")
# From a heading to the end of the notes, which are one line.
_SHEET = re.compile(r"^### .*\n\n(?:\|.*\n)+(?:\n(?![#|\-]).+\n)?", re.MULTILINE)


def refreshed(readme: str, results: str) -> str:
    """The README with the tables of `results`, a file of :mod:`recbole_hellm.reporting.sheets`."""
    sheets = {part.splitlines()[0]: part.rstrip() + "\n" for part in _HEADING.split(results)[1:]}

    def new(found: re.Match[str]) -> str:
        old = found[0]
        table = sheets.get(old.splitlines()[0], old)
        lost = _rows(old) - _rows(table)
        if lost:
            raise SystemExit(
                f"The records lack {', '.join(sorted(lost))}, which the README shows under "
                f"{old.splitlines()[0]!r}; run them, or take their rows out of the README."
            )
        return table

    return _SHEET.sub(new, readme)


def _rows(table: str) -> set[str]:
    """The first cell of each row."""
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    return set(rows[2:])


def run() -> int:
    """Command line."""
    text = README.read_text(encoding="utf-8")
    for command, folder in COMMAND.findall(text):
        words = shlex.split(command)
        if main(words):
            return 1
        options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
        file = Path(folder) / f"{options['benchmark']}-{options['datasets']}.md"
        text = refreshed(text, file.read_text(encoding="utf-8"))
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run())
