"""The documentation agrees with the code: sections, links, settings and formulas."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.models.general.bm3 import BM3Settings
from recbole_hellm.models.general.freedom import FREEDOMSettings
from recbole_hellm.models.general.grcn import GRCNSettings
from recbole_hellm.models.general.hellm_pre import HeLLMPreSettings
from recbole_hellm.models.general.lattice import LATTICESettings
from recbole_hellm.models.general.slmrec import SLMRecSettings
from recbole_hellm.models.general.vbpr import VBPRSettings
from recbole_hellm.models.llm.settings import LLMSettings

ROOT = Path(__file__).resolve().parents[1]
METHOD = ROOT / "docs/method.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("recbole_hellm", "tests", "benchmarks", "docs")
# Kept and generated files.
GENERATED = ("docs/records", "docs/results")
# "docs/method.md, Item images": the name of the section is what a heading says.
CITATION = re.compile(r"docs/(\w+)\.md, (?=(.{80}))")
OUTSIDE = re.compile(r"\bMETHOD,? D?\d|\bPROTOCOL, ")
ENTRY_POINTS = {
    f"recbole_hellm.{door}" for door in ("models", "metrics", "datasets", "item_inputs", "trackers")
}
SETTINGS = {
    "VBPR": VBPRSettings,
    "GRCN": GRCNSettings,
    "LATTICE": LATTICESettings,
    "SLMRec": SLMRecSettings,
    "BM3": BM3Settings,
    "FREEDOM": FREEDOMSettings,
    "User-item graph": HeLLMPreSettings,
    "User hypergraph": HeLLMPreSettings,
    "Item hypergraph": HeLLMPreSettings,
    "Contrast": HeLLMPreSettings,
}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def headings(text: str) -> list[str]:
    return re.findall(r"(?m)^#+ (.+)$", without_code(text))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings(read(page)))
    return {heading.replace(" ", "-") for heading in kept}


def sources() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix in {".py", ".yaml", ".md"} and not name.startswith(GENERATED):
                yield name, read(path)


def flat(text: str) -> str:
    """Text on one line, without the marks that begin lines of a comment."""
    return re.sub(r"\s+(# )?", " ", text)


def section(name: str) -> str:
    body = re.search(rf"(?ms)^#+ {re.escape(name)}\n(.*?)(?=^#+ |\Z)", without_code(read(METHOD)))
    assert body is not None, name
    return body.group(1)


def test_headings_of_the_method_are_unique() -> None:
    names = headings(read(METHOD))
    assert len(names) == len(set(names)) > 30


def test_cited_sections_exist() -> None:
    cited: dict[str, set[str]] = {}
    for name, text in sources():
        for page, rest in CITATION.findall(flat(text) + " " * 80):
            if name == "tests/test_docs.py":
                continue
            cited.setdefault(page, set()).add(rest)
            known = headings(read(ROOT / f"docs/{page}.md"))
            assert any(re.match(rf"{re.escape(heading)}\b", rest) for heading in known), (
                f"{name} cites docs/{page}.md, {rest.strip()}"
            )
    assert len(cited["method"]) > 10


def test_nothing_cites_pages_outside_the_repository() -> None:
    assert not [name for name, text in sources() if OUTSIDE.search(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_have_targets(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_are_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+\.md)", read(ROOT / "README.md")))
    assert {page.name for page in PAGES if page.parent.name == "docs"} - linked <= {"index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_formulas_in_lines_survive_markdown(page: Path) -> None:
    # Outside blocks, GitHub may read `}_` as emphasis and `\,` as an escaped comma.
    text = re.sub(r"`[^`\n]+`", "", without_code(read(page)))
    for formula in re.findall(r"\$([^$\n]+)\$", text):
        assert not re.search(r"[^\w\s]_|\\[^a-zA-Z]|\*", formula), formula


@pytest.mark.parametrize("name", SETTINGS)
def test_sections_name_settings_that_exist(name: str) -> None:
    listed = re.search(r"(?ms)^Settings?: (.*?)\.\s", section(name))
    assert listed is not None
    keys = set(re.findall(r"`(\w+)(?:: \w+)?`", listed.group(1)))
    assert keys
    assert keys <= {*SETTINGS[name].keys(), *TrainingSettings.keys(), "features"}


def test_every_setting_of_the_first_stage_and_the_baselines_is_listed() -> None:
    text = "".join(map(section, headings(read(METHOD))[1:]))
    for settings in set(SETTINGS.values()):
        for key in set(vars(settings())) - {"embedding_size", "reg_weight"}:
            assert f"`{key}`" in text or f"`{key}: " in text, key


def test_the_table_of_variants_is_what_the_settings_say() -> None:
    paper, released = (
        vars(LLMSettings(backbone="folder", variant=name).resolved())
        for name in ("paper", "released")
    )
    differing = {key for key in paper if paper[key] != released[key]} - {"variant"}
    rows = [row.split("|") for row in section("Variants").splitlines() if "| HeLLM |" in row]
    cells = {re.sub("`", "", row[2].strip()): (row[3], row[4]) for row in rows}
    assert differing == {key for key in cells if key in paper}
    for key in ("bilinear", "prefix_norm", "prefix_projection"):
        for cell, settings in zip(cells[key], (paper, released), strict=True):
            assert f"`{settings[key]}`" in cell


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_modules_and_functions_exist(page: Path) -> None:
    text = without_code(read(page))
    for folder, names, single in re.findall(
        r"`((?:\w+/)+)(?:\{([\w,]+)\}|(\w+))\.py\b", text.replace("`recbole_hellm/", "`")
    ):
        for name in (names or single).split(","):
            path = f"{folder}{name}.py"
            assert (ROOT / path).is_file() or (ROOT / "recbole_hellm" / path).is_file(), path
    for name in re.findall(r"`(recbole_hellm(?:\.\w+)+)", text):
        assert name in ENTRY_POINTS or resolves(name), name


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False
