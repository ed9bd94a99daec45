"""The rules of the house: no circles, short modules, small folders, mirrored tests."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recbole_hellm"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400
MOST_FILES = 13  # about a dozen, `__init__.py` included
LARGE_FOLDERS = ("data", "models")
# Tested through the modules that they are parts of.
WITHOUT_TESTS_OF_THEIR_OWN = {"__main__.py", "version.py"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def documentation(tree: ast.Module) -> set[int]:
    """Ids of the strings that only document."""
    nodes = (node for node in ast.walk(tree) if hasattr(node, "body"))
    expressions = (
        child.value
        for node in nodes
        if isinstance(node.body, list)
        for child in node.body
        if isinstance(child, ast.Expr)
    )
    return {id(value) for value in expressions}


def references(path: Path) -> Iterator[str]:
    """What a module imports, wherever it does so, and what it names in texts for a later import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documenting = documentation(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and id(node) not in documenting:
            text = node.value if isinstance(node.value, str) else ""
            if text.partition(":")[0] in MODULES:  # others are groups of entry points
                yield text.partition(":")[0]


def imports(path: Path) -> set[str]:
    """Modules of the package that one of them imports; of a name, the module that has it."""
    found = set()
    for reference in references(path):
        while reference and reference not in MODULES:
            reference = reference.rpartition(".")[0]
        if reference:
            found.add(reference)
    return found - {name_of(path)}


def test_no_module_imports_another_in_a_circle() -> None:
    graph = {name: imports(path) for name, path in MODULES.items()}
    assert len(graph) > 100
    assert "recbole_hellm.runs.running" in graph["recbole_hellm"]
    assert "recbole_hellm.models.general.vbpr" not in graph["recbole_hellm.errors"]
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    # Below: directory and identity, opening, restoring; above: running.
    for lowest in ("directory", "identity"):
        layers = [lowest, "opening", "restoring", "running"]
        places = [order.index(f"recbole_hellm.runs.{layer}") for layer in layers]
        assert places == sorted(places)


def test_a_circle_would_be_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '"""recbole_hellm.errors"""\n'
        "def f():\n    from recbole_hellm.config import settings\n"
        "X = 'recbole_hellm.registry:Y'\n"
        "from recbole_hellm.errors import ConfigError\n"
    )
    assert {*references(module)} == {
        "recbole_hellm.config.settings",
        "recbole_hellm.registry",
        "recbole_hellm.errors.ConfigError",
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_folders_are_small() -> None:
    for folder in {path.parent for path in FILES}:
        part = folder.relative_to(PACKAGE).parts[:1]
        if not part or part[0] not in LARGE_FOLDERS:
            assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


def test_every_module_has_its_tests() -> None:
    tested = {
        path.with_name(path.name.removeprefix("test_")).relative_to(ROOT / "tests")
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    modules = {
        path.relative_to(PACKAGE)
        for path in FILES
        if path.name != "__init__.py" and path.name not in WITHOUT_TESTS_OF_THEIR_OWN
    }
    assert sorted(map(str, modules - tested)) == []
