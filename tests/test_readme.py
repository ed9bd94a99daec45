"""What the README and the docs show works as written."""

from __future__ import annotations

import random
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm import comparisons
from recbole_hellm.benchmark.compare_settings import CompareSettings
from recbole_hellm.benchmark.comparing import Comparison
from recbole_hellm.cli.main import COMMANDS, main, parse_options
from recbole_hellm.comparisons import ComparisonReport
from recbole_hellm.config.resolution import HellmConfig, check_addressed
from recbole_hellm.data.features.encoding import EncodeSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
RESULTS = PAGES["results"]
# What these show needs files of theirs, and is run in tests/test_extending*.py.
EXTENDING = {"extending", "own_models", "own_metrics"}
SHOWN = README + "".join(text for name, text in PAGES.items() if name not in EXTENDING)
PREFIXES = ("python run_hellm.py", "recbole-hellm", "python -m recbole_hellm")


def shell_blocks(text: str) -> list[str]:
    # Every fence is matched with its end, or the text between two blocks would pass for one.
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [block for language, block in blocks if not language]


def commands() -> list[str]:
    blocks = shell_blocks(SHOWN)
    inline = re.findall(r"`([^`\n]+)`", SHOWN)
    lines = [line for block in blocks for line in block.splitlines()] + inline
    shown = (re.sub(r"^(\w+=\S+ )+", "", line.partition(" #")[0].strip()) for line in lines)
    shown = (re.sub(r"^torchrun --nproc_per_node=\d+", "python", line) for line in shown)
    return sorted({line for line in shown if line.startswith(PREFIXES)})


def test_the_readme_shows_the_main_commands() -> None:
    assert "python run_hellm.py" in commands()
    assert "python run_hellm.py --model=HeLLM --dataset=Beauty" in commands()
    assert "recbole-hellm run --model=HeLLM --dataset=shop" in commands()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_are_accepted(command: str) -> None:
    prefix = next(prefix for prefix in PREFIXES if command.startswith(prefix))
    words = shlex.split(command.removeprefix(prefix))
    name = words.pop(0) if words and not words[0].startswith("-") else "run"
    if name == "help" or "--help" in words:
        assert main([name, *words]) == 0
        return
    assert name in COMMANDS
    options = parse_options(words, name)
    if name == "encode":
        EncodeSettings.from_config(options)
    if name == "run":
        models = str(options.pop("model", "Pop,HeLLM")).split(",")
        dataset = options.pop("dataset", "sample")
        options.pop("dry_run", None)
        options.pop("config", None)  # a file that an earlier command writes
        check_addressed([HellmConfig(model, dataset, options) for model in models])


@pytest.mark.parametrize(
    "command", [c for c in commands() if " compare --" in c and not c.endswith("--help")]
)
def test_comparisons_of_the_docs_are_plans(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Comparison] = []

    def plan(
        settings: CompareSettings, overrides: dict[str, Any], files: list[Path]
    ) -> ComparisonReport:
        names = str(settings.datasets).split(",")
        planned.extend(Comparison(settings, name, overrides, files) for name in names)
        return ComparisonReport("", {})

    monkeypatch.setattr(comparisons, "report", plan)
    assert main(shlex.split(command)[1:]) == 0
    assert planned and all(len(seed) >= 2 for one in planned for seed in one.by_seed)


def own_files(folder: Path) -> set[str]:
    """Write ``log.csv`` and ``items.csv`` of a small shop; the titles in it."""
    drawn = random.Random(1)  # noqa: S311
    kinds = ("kettle", "lamp", "tent", "novel")
    titles = {f"{kind}-{n}": f"{kind.title()} No. {n}" for kind in kinds for n in range(15)}
    lines = ["user,item,time"]
    for user in ["ada", *(f"user {n}" for n in range(79))]:
        liked = drawn.sample(kinds, 2)
        bought = drawn.sample([item for item in titles if item.split("-")[0] in liked], 7)
        lines += [
            f"{user},{item},{1_700_000_000 + 86_400 * day}" for day, item in enumerate(bought)
        ]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    rows = [f"{item},{title},Goods|{item.split('-')[0]}" for item, title in titles.items()]
    (folder / "items.csv").write_text("\n".join(["item,title,categories", *rows]) + "\n")
    return set(titles.values())


def test_from_files_to_recommendations_in_three_commands(tmp_path: Path) -> None:
    (block,) = (block for block in shell_blocks(README) if "--interactions=log.csv" in block)
    titles = own_files(tmp_path)
    assert block in PAGES["data"]
    for name, head in re.findall(
        r"`(\S+)` begins with:\n\n```text\n(.*?)```", PAGES["data"], re.DOTALL
    ):
        assert (tmp_path / name).read_text().startswith(head)
    shown = []
    for line in block.splitlines():
        name, *words = shlex.split(line)
        assert name == "recbole-hellm"
        command = [sys.executable, "-m", "recbole_hellm", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)  # noqa: S603
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout)
    assert len(shown) == 3
    prepared, trained, recommended = shown
    assert re.search(r"shop\s+80\s+60\s+560\b", prepared)
    assert re.search(r"^HeLLM ", trained, flags=re.MULTILINE)
    listed = [title for title in titles if title in recommended]
    bought = [line.split(",")[1] for line in (tmp_path / "log.csv").read_text().splitlines()[1:8]]
    assert len(listed) >= 10
    ranked = re.findall(r"^ *\d+ +(\S+)", recommended, flags=re.MULTILINE)
    assert len(set(ranked) - set(bought)) >= 10, recommended


def test_no_figure_is_left_to_be_filled_in() -> None:
    assert re.findall(r"\b(SPEED\w*|TODO|TBD|XXX)\b", SHOWN) == []


KEPT = re.findall(r"`recbole-hellm (compare .*--kept_only.*docs/results)`", RESULTS)
SCRIPT = runpy.run_path(str(ROOT / "benchmarks/readme_results.py"))
NAMES = {command: SCRIPT["file_name"](command) for command in KEPT}


def test_all_results_have_their_command() -> None:
    kept = {file.name.split(".")[0] for file in (ROOT / "docs/results").glob("*.md")}
    assert set(NAMES.values()) == kept
    temporal = "compare --benchmark=table1 --datasets=Beauty --split=temporal --kept_only"
    assert SCRIPT["file_name"](temporal) == "table1-Beauty-temporal"


@pytest.mark.parametrize("command", KEPT)
def test_results_are_those_that_compare_makes_of_the_kept_records(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no data here
    options = parse_options(shlex.split(command)[1:], "compare")
    options |= {"records": str(ROOT / "docs/records"), "output": str(tmp_path / "results")}
    assert main(["compare", *(f"--{key}={value}" for key, value in options.items())]) == 0
    made = {file.name: file for file in (tmp_path / "results").iterdir()}
    name = NAMES[command]
    longer = tuple(other for other in NAMES.values() if len(other) > len(name))
    kept = {
        file.name: file
        for file in (ROOT / "docs/results").glob(f"{name}*")
        if not file.name.startswith(longer)
    }
    assert set(kept) == set(made)
    for file in made:
        if not file.endswith(".svg"):  # drawn a little differently by each matplotlib
            assert kept[file].read_text(encoding="utf-8") == made[file].read_text(encoding="utf-8")
    sheets = re.split(r"(?m)^(?=### )", made[f"{name}.md"].read_text(encoding="utf-8"))[1:]
    shown = [sheet.rstrip() for sheet in sheets if sheet.splitlines()[0] in RESULTS]
    assert all(sheet in RESULTS for sheet in shown)
    assert shown or f"results/{name}.svg" in RESULTS


def test_every_table_of_results_is_a_kept_one() -> None:
    headings = re.findall(r"^(### .*)\n\n\|", RESULTS, re.MULTILINE)
    made = "".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "docs/results").glob("*.md")
    )
    assert len(headings) >= 4
    assert all(f"{heading}\n" in made for heading in headings)


def test_the_short_table_is_of_the_kept_results() -> None:
    table = SCRIPT["brief"](pd.read_csv(ROOT / SCRIPT["BRIEF_FROM"]))
    assert f"<!-- brief -->\n{table}<!-- /brief -->" in README
    (best,) = (line for line in table.splitlines() if line.count("**") == 8)
    sheet = (ROOT / "docs/results/ranking-Beauty.md").read_text(encoding="utf-8")
    row = next(line for line in sheet.splitlines() if line.startswith(best[: best.index("**")]))
    means = re.findall(r"\*\*(\.\d{4})", best)
    assert re.findall(r"(\.\d{4}) ±", row)[:4] == means


@pytest.mark.parametrize("page", ["README", "start"])
def test_the_python_example_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = README if page == "README" else PAGES[page]
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)  # noqa: S102
    assert names["result"].path.is_dir()  # type: ignore[attr-defined]
