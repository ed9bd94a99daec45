"""What the README shows works as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recbole_hellm.benchmark.records import read_records, tables
from recbole_hellm.cli import COMMANDS, parse_options
from recbole_hellm.config import HellmConfig, check_addressed

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = README + (ROOT / "docs/llm.md").read_text(encoding="utf-8")
PREFIXES = ("python run_hellm.py", "recbole-hellm", "python -m recbole_hellm")


def commands() -> list[str]:
    blocks = re.findall(r"```\n(.*?)```", SHOWN, flags=re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", SHOWN)
    lines = [line for block in blocks for line in block.splitlines()] + inline
    shown = (re.sub(r"^(\w+=\S+ )+", "", line.partition(" #")[0].strip()) for line in lines)
    shown = (re.sub(r"^torchrun --nproc_per_node=\d+", "python", line) for line in shown)
    return sorted({line for line in shown if line.startswith(PREFIXES)})


def test_the_readme_shows_the_main_commands() -> None:
    assert "python run_hellm.py" in commands()
    assert "python run_hellm.py --model=HeLLM --dataset=Beauty" in commands()


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_are_accepted(command: str) -> None:
    prefix = next(prefix for prefix in PREFIXES if command.startswith(prefix))
    words = shlex.split(command.removeprefix(prefix))
    name = words.pop(0) if words and not words[0].startswith("-") else "run"
    assert name in (*COMMANDS, "help")
    options = parse_options(words, name)
    if name == "run":
        models = str(options.pop("model", "Pop,HeLLM")).split(",")
        dataset = options.pop("dataset", "sample")
        options.pop("dry_run", None)
        options.pop("config", None)  # a file that an earlier command writes
        check_addressed([HellmConfig(model, dataset, options) for model in models])


def test_no_figure_is_left_to_be_filled_in() -> None:
    assert re.findall(r"\b(SPEED\w*|TODO|TBD|XXX)\b", SHOWN) == []


def test_tables_are_those_of_the_kept_records() -> None:
    for title, table in tables(read_records(ROOT / "docs/records/Beauty")).items():
        assert table in README, f"{title}: python benchmarks/readme_tables.py docs/records/Beauty"


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)  # noqa: S102
    assert names["result"].path.is_dir()  # type: ignore[attr-defined]


def test_files_the_readme_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
