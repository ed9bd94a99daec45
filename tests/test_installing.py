"""What setup.cfg, the Dockerfiles and docs/installing.md say of an installation holds."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from recbole_hellm import recbole_models

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "recbole_hellm"
PAGE = (ROOT / "docs/installing.md").read_text(encoding="utf-8")
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
PYTHONS = re.findall(r"Python :: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
RAY = "ray"


def requirements(lines: Iterable[str]) -> dict[str, Requirement]:
    """Requirements by name; those of extras are left out."""
    parsed = [Requirement(line) for line in lines]
    return {
        canonicalize_name(one.name): one for one in parsed if "extra" not in str(one.marker or "")
    }


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


OURS = requirements(lines(SETUP["options"]["install_requires"]))
RECBOLES = requirements(importlib.metadata.requires("recbole") or ())


def lowest(requirement: Requirement) -> Version:
    """The lowest version that a requirement names."""
    named = [one for one in requirement.specifier if one.operator in (">=", "==")]
    return max(Version(one.version) for one in named)


def imported_at_once(path: Path) -> Iterator[str]:
    """Top-level names of what a module imports when it is imported itself."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            nodes += ast.iter_child_nodes(node)


def test_recbole_is_required_where_ray_has_wheels() -> None:
    recbole = OURS["recbole"]
    assert str(recbole.specifier) == f"=={recbole_models.VERSION}"
    assert recbole.marker is not None
    required = [python for python in PYTHONS if recbole.marker.evaluate({"python_version": python})]
    assert required == ["3.10", "3.11"]
    assert importlib.metadata.version("recbole") == recbole_models.VERSION
    assert str(RECBOLES[RAY].specifier) in ("<=2.6.3,>=1.13.0", ">=1.13.0,<=2.6.3")  # cp311 at most


def test_all_that_recbole_requires_is_required_here_but_ray() -> None:
    for name, theirs in RECBOLES.items():
        if name == RAY:
            assert name not in OURS
            continue
        assert name in OURS, f"RecBole requires {theirs}; setup.cfg does not"
        assert OURS[name].marker is None, "needed on every Python"
        pinned = {one.version for one in theirs.specifier if one.operator == "=="}
        if pinned:
            assert OURS[name].specifier == theirs.specifier
        assert lowest(OURS[name]) >= lowest(theirs), name


def test_recbole_imports_only_what_is_required_here() -> None:
    folder = recbole_models.folder()
    distributions = importlib.metadata.packages_distributions()
    needed: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for module in set(imported_at_once(path)) - {*sys.stdlib_module_names, "recbole"}:
            names = {canonicalize_name(name) for name in distributions.get(module, [module])}
            if not names & OURS.keys():
                needed.setdefault(module, set()).add(path.relative_to(folder).as_posix())
    # These wrap a library each, which RecBole's own requirements leave to the user, too.
    assert needed.pop("xgboost") == {"model/exlib_recommender/xgboost.py"}
    assert needed.pop("lightgbm") == {"model/exlib_recommender/lightgbm.py"}
    assert needed.pop(RAY) == {"quick_start/quick_start.py"}
    assert not needed


def test_what_imports_ray_is_never_imported() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong = [one for one in names if re.match(r"ray\b|recbole\.quick_start\b", one)]
            assert not wrong, f"{path}: {wrong}"


def test_every_data_file_is_packaged() -> None:
    packaged: set[Path] = set()
    for package, patterns in SETUP["options.package_data"].items():
        folder = ROOT / package.replace(".", "/")
        assert (folder / "__init__.py").is_file()
        for pattern in lines(patterns):
            matched = set(folder.glob(pattern))
            assert matched, f"{package}: nothing is {pattern}"
            packaged |= matched
    found = {
        Path(folder, file)
        for folder, _, files in os.walk(PACKAGE, followlinks=True)
        for file in files
        if not file.endswith((".py", ".pyc")) and not file.startswith((".", "text-"))
    }
    assert packaged == found
    assert PACKAGE / "data/sample/sample.inter" in found


def test_the_page_has_a_command_for_every_python() -> None:
    assert len(PYTHONS) == 4
    rows = re.findall(r"^\| (3\.\d+)(?:, (3\.\d+))* \| `([^`]+)` \|", PAGE, re.MULTILINE)
    told = {python: command for *pythons, command in rows for python in pythons if python}
    assert told.keys() == set(PYTHONS)
    for python, command in told.items():
        recbole = f" && pip install --no-deps recbole=={recbole_models.VERSION}"
        required = OURS["recbole"].marker.evaluate({"python_version": python})  # type: ignore[union-attr]
        assert command == "pip install recbole-hellm" + ("" if required else recbole)


def test_what_the_page_shows_on_the_sample_is_run() -> None:
    script = (ROOT / ".ci/on_sample").read_text(encoding="utf-8").replace("\\\n", "")
    ran = [" ".join(line.split()) for line in script.splitlines() if line.startswith("hellm ")]
    shown = re.findall(r"^recbole-(hellm .*)$", PAGE, re.MULTILINE)
    assert len(shown) == 4
    for command in shown:
        assert any(line.startswith(command) for line in ran), command


def test_pages_and_messages_name_one_version_of_recbole() -> None:
    texts = [PAGE, *(path.read_text(encoding="utf-8") for path in DOCKERFILES)]
    for text in texts:
        assert set(re.findall(r"recbole==([\d.]*\d)", text)) == {recbole_models.VERSION}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfiles_copy_what_there_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    ignored = lines((ROOT / ".dockerignore").read_text(encoding="utf-8"))
    assert sources
    assert ignored[0] == "*"
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert all(re.fullmatch(r"\S+:\S*\d+\.\d+\S*", base) for base in bases), bases
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["recbole-hellm"\]$', text, re.MULTILINE)


def test_there_is_a_dockerfile_for_each_kind_of_machine() -> None:
    assert [file.name for file in DOCKERFILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]
