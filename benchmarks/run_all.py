"""Run the benchmarks of whole jobs, and write what they print into `benchmarks/README.md`.

Each script prints a JSON line, which is kept in `benchmarks/results/NAME.json` together with its
command. The page is made from the kept lines, so that a part can be measured again by itself, and a
benchmark that was not run is said to be missing.

    python benchmarks/run_all.py                    # all of them, one after the other
    python benchmarks/run_all.py startup evaluation # some
    python benchmarks/run_all.py --page             # only the page
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
COMMANDS = {
    "pretrain_epoch": "pretrain_epoch.py --dataset=Beauty --threads=2",
    "growth": "growth.py --threads=1 --steps=150 --largest=HeLLMPre "
    "--plot=benchmarks/results/growth.svg",
    "neighbours_flat": "knn_scale.py --items=100000 --threads=2 --search=faiss-flat",
    "neighbours_hnsw": "knn_scale.py --clusters=1000 --items=100000 --threads=2 "
    "--search=faiss-hnsw",
    "evaluation": "evaluation.py --dataset=Beauty --threads=2",
    "sequential_epoch": "sequential_epoch.py --dataset=Beauty --threads=2",
    "processes_sasrec": "processes.py --model=SASRec --size=beauty",
    "processes_hellmpre": "processes.py --model=HeLLMPre --size=beauty",
    "startup": "startup.py --dataset=Beauty",
}
TITLES = {
    "pretrain_epoch": "An epoch of HeLLM_pre beside the literal formulation",
    "growth": "Growth with the number of users",
    "neighbours_flat": "Nearest neighbours by faiss, exact",
    "neighbours_hnsw": "Nearest neighbours by faiss, approximate",
    "evaluation": "Ranking all test users beside RecBole's evaluator",
    "sequential_epoch": "An epoch of SASRec and of HeLLM's `tiny` beside RecBole's SASRec",
    "processes_sasrec": "SASRec in two processes",
    "processes_hellmpre": "HeLLM_pre in two processes",
    "startup": "Starting up",
}
HEAD = """# Benchmarks of whole jobs

`python benchmarks/run_all.py` runs the scripts below, one after the other, and writes this page
from what they print. They need a prepared Beauty (`recbole-hellm prepare --dataset=Beauty`,
[docs/data.md](../docs/data.md)), and a machine without other work.
`python benchmarks/run_all.py NAME` measures one of them again. [docs/speed.md](../docs/speed.md)
has single steps.
"""


def measured(name: str, command: str) -> dict[str, Any]:
    """Run a script; its last line."""
    script, *arguments = shlex.split(command)
    line = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(line, check=True, capture_output=True, text=True)  # noqa: S603
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if result["benchmark"] != name:
        raise SystemExit(f"{script} printed the result of {result['benchmark']}, not of {name}")
    return result | {"command": f"python benchmarks/{command}"}


def shown(value: Any) -> str:
    """A figure with three or more digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"


def section(name: str, result: Mapping[str, Any] | None, plot: str | None = None) -> str:
    """One benchmark as Markdown, with a picture from a file beside the page if there is one."""
    lines = [f"## {TITLES[name]}", ""]
    if result is None:
        return "\n".join([*lines, f"Not measured: `python benchmarks/run_all.py {name}`.", ""])
    machine = result["machine"]
    lines += [
        f"`{result['command']}` on {machine['cores']} cores ({machine['processor']}, Python "
        f"{machine['python']}, torch {machine['torch']}, load {machine['load']} at the end).",
        "",
        "| goal | | measured | |",
        "| --- | --- | --- | --- |",
    ]
    for goal in result["goals"]:
        bound = "at most" if goal["at_most"] else "at least"
        outcome = "reached" if goal["reached"] else "**not reached**"
        limit, value = shown(goal["limit"]), shown(goal["value"])
        lines.append(f"| {goal['what']} | {bound} {limit} | {value} | {outcome} |")
    lines += ["", result["why"], ""]
    if plot is not None:
        lines += [f"![{TITLES[name]}]({plot})", ""]
    lines += ["| figure | value |", "| --- | --- |"]
    figures = result["figures"].items()
    lines += [f"| {key.replace('_', ' ')} | {shown(value)} |" for key, value in figures]
    return "\n".join([*lines, ""])


def page(results: Path) -> str:
    """The whole page from the kept lines."""
    parts = [HEAD]
    for name in COMMANDS:
        file = results / f"{name}.json"
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        plot = results / f"{name}.svg"
        parts.append(section(name, kept, f"results/{plot.name}" if plot.is_file() else None))
    return "\n".join(parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(COMMANDS)}; all by default")
    parser.add_argument("--page", action="store_true", help="write the page and measure nothing")
    options = parser.parse_args()
    unknown = set(options.names) - set(COMMANDS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    results = FOLDER / "results"
    results.mkdir(exist_ok=True)
    for name in () if options.page else options.names or COMMANDS:
        print(name, flush=True)
        line = json.dumps(measured(name, COMMANDS[name]), indent=1)
        (results / f"{name}.json").write_text(line + "\n", encoding="utf-8")
        (FOLDER / "README.md").write_text(page(results), encoding="utf-8")
    (FOLDER / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
