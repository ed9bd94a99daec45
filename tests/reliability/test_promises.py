"""Each promise of docs/reliability.md has its test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/reliability.md"


def promises() -> dict[str, str]:
    """Tests by promise, from the table of the page."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("\n## Promises\n")
    rows = re.findall(r"^\| (.+) \| `([\w.]+::\w+)` \|$", rest.partition("\n## ")[0], re.MULTILINE)
    return dict(rows)


def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        f"{path.name}::{node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_each_promise_has_its_test() -> None:
    found = promises()
    rows = PAGE.read_text(encoding="utf-8").partition("\n## Promises\n")[2].partition("\n## ")[0]
    assert len(found) == rows.count("\n| ") - 2 > 5  # a head and a line below it
    there = set().union(*(defined_in(path) for path in HERE.glob("test_*.py")))
    assert sorted(set(found.values()) - there) == []


def test_each_test_shows_a_promise() -> None:
    shown = set(promises().values())
    names = ("test_crashes.py", "test_damages.py", "test_generated.py", "test_loads.py")
    there = set().union(*(defined_in(HERE / name) for name in names))
    assert there - shown == {
        "test_damages.py::test_there_were_enough",
        "test_generated.py::test_there_are_enough",
    }
