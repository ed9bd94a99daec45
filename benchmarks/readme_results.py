"""Bring ``docs/results`` and the tables of ``docs/results.md`` and the README up to date.

    python benchmarks/readme_results.py [PART ...]

Every ``recbole-hellm compare ... --kept_only ...`` that docs/results.md shows is carried out, which
runs nothing and needs no data; or those alone whose files' names begin with a PART, such as
``table1-Beauty``. A table that the page holds is replaced by the new one of its
heading. The README's short table is made from one of them.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pandas as pd

from recbole_hellm.cli.main import main, parse_options
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.reporting.numbers import number

README, RESULTS = Path("README.md"), Path("docs/results.md")
COMMAND = re.compile(r"`recbole-hellm (compare .*--kept_only.*--output=(\S+))`")
BRIEF = re.compile(r"(<!-- brief -->\n).*?(<!-- /brief -->)", re.DOTALL)
BRIEF_FROM = "docs/results/ranking-Beauty-results.csv"
BRIEF_METHODS = [
    "LightGCN",
    "FREEDOM",
    "HeLLMPre",
    "SASRec",
    "BSARec",
    "WEARec",
    "CoLLM",
    "LLaRA",
    "HeLLM",
    "HeLLM-plus",
]
BRIEF_METRICS = {"recall@10": "R@10", "ndcg@10": "N@10", "recall@20": "R@20", "ndcg@20": "N@20"}
_HEADING = re.compile(r"(?m)^(?=### )")
# From a heading to the end of the notes, which are one line.
_SHEET = re.compile(r"^### .*\n\n(?:\|.*\n)+(?:\n(?![#|\-]).+\n)?", re.MULTILINE)


def refreshed(page: str, results: str) -> str:
    """The page with the tables of `results`, a file of :mod:`recbole_hellm.reporting.sheets`."""
    sheets = {part.splitlines()[0]: part.rstrip() + "\n" for part in _HEADING.split(results)[1:]}

    def new(found: re.Match[str]) -> str:
        old = found[0]
        table = sheets.get(old.splitlines()[0], old)
        lost = _rows(old) - _rows(table)
        if lost:
            raise SystemExit(
                f"The records lack {', '.join(sorted(lost))}, which the page shows under "
                f"{old.splitlines()[0]!r}; run them, or take their rows out of the page."
            )
        return table

    return _SHEET.sub(new, page)


def _rows(table: str) -> set[str]:
    """The first cell of each row."""
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    return set(rows[2:])


def file_name(command: str) -> str:
    """The name, without ending, of the files that a shown command writes."""
    options = parse_options(shlex.split(command)[1:], "compare")
    protocol = RunSettings.from_config(options).protocol_suffix
    return f"{options['benchmark']}-{options['datasets']}{protocol}"


def brief(results: pd.DataFrame) -> str:
    """The README's table: means of a few methods, the best in bold."""
    wide = results.pivot_table(index="method", columns="metric", values="mean")
    seeds = results.groupby("method")["seeds"].first().str.split().str.len()
    methods = [name for name in BRIEF_METHODS if name in wide.index]
    best = wide.loc[methods].max()
    lines = [f"| | seeds | {' | '.join(BRIEF_METRICS.values())} |", "|---|---" + "|---" * 4 + "|"]
    for name in methods:
        cells = []
        for metric in BRIEF_METRICS:
            value = wide.loc[name, metric]
            text = number(value)
            cells.append(f"**{text}**" if value == best[metric] else text)
        lines.append(f"| {name} | {seeds[name]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def run(parts: tuple[str, ...]) -> int:
    """Command line."""
    text = RESULTS.read_text(encoding="utf-8")
    for command, folder in COMMAND.findall(text):
        if parts and not file_name(command).startswith(parts):
            continue
        if main(shlex.split(command)):
            return 1
        file = Path(folder) / f"{file_name(command)}.md"
        text = refreshed(text, file.read_text(encoding="utf-8"))
    RESULTS.write_text(text, encoding="utf-8")
    table = brief(pd.read_csv(BRIEF_FROM))
    readme = README.read_text(encoding="utf-8")
    README.write_text(BRIEF.sub(rf"\g<1>{table}\g<2>", readme), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run(tuple(sys.argv[1:])))
