from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.data.interactions.atomic_files import read_items
from recbole_hellm.data.preparation.datasets import families as module
from recbole_hellm.data.preparation.datasets.families import (
    BUILT_IN,
    families,
    family_named,
    family_of,
)
from recbole_hellm.data.preparation.manifest import read_manifest
from recbole_hellm.errors import ConfigError

BASE = "from recbole_hellm.data.preparation.datasets.base import DatasetFamily\n"
PLAYS = f"""{BASE}
class Plays(DatasetFamily):
    name = "plays"
    datasets = {{"tiny": {{}}, "Beauty": {{}}}}

    def files(self, dataset):
        return {{}}


class Nameless(DatasetFamily):
    datasets = {{}}


number = 7
"""


@pytest.fixture(autouse=True)
def families_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "families_from_outside.py").write_text(PLAYS)
    monkeypatch.chdir(tmp_path)


def test_names_are_unique_and_those_of_the_modules() -> None:
    assert [family.name for family in families()] == list(BUILT_IN)
    names = [name for family in families() for name in family.datasets]
    assert len(set(names)) == len(names)
    for family in families():
        for dataset in family.datasets:
            assert family.files(dataset)


def test_the_family_of_a_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    for dataset, name in (("Beauty", "amazon2014"), ("ml-100k", "movielens")):
        family = family_of(dataset)
        assert family is not None
        assert family.name == name
    assert family_of("tiny") is None
    family = family_of("Beauty", "families_from_outside:Plays")
    assert family is not None
    assert family.name == "plays"
    # As an installed package offers it.
    monkeypatch.setattr(module, "installed", lambda group: {"plays": "families_from_outside:Plays"})
    family = family_of("tiny")
    assert family is not None
    assert family.name == family_named("plays").name == "plays"
    assert family_of("Beauty").name == "amazon2014"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            "movielense",
            r"Unknown dataset family 'movielense' \(did you mean movielens\?\)",
        ),
        ("movielens", r"The family movielens has no dataset 'ml-100' \(did you mean ml-100k"),
        ("families_from_outside:Nameless", "does not define files, name"),
        (
            "families_from_outside:number",
            "is not a dataset family; derive it from",
        ),
        ("families_from_outside:Plais", "has no 'Plais'"),
        ("no_such_module:Plays", "There is no module 'no_such_module'"),
    ],
)
def test_families_that_cannot_be_used(family: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        family_of("ml-100", family)


@pytest.mark.parametrize("way", ["import path", "entry point"])
def test_the_example_of_the_documentation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    example: Callable[[str], list[list[str]]],
    way: str,
) -> None:
    """The page's files and commands, as they are written there."""
    commands = example("Datasets")
    assert [command[0] for command in commands[:2]] == ["prepare", "run"]
    if way == "entry point":
        page = (Path(__file__).parents[4] / "docs/extending.md").read_text(encoding="utf-8")
        group = re.escape(module.ENTRY_POINTS)
        declared = re.search(rf'\[project.entry-points."{group}"\]\n(\w+) = "(.*)"', page)
        assert declared is not None
        name, path = declared.groups()
        monkeypatch.setattr(module, "installed", lambda _: {name: path})
        commands = [[w for w in words if not w.startswith("--family")] for words in commands]
    monkeypatch.delenv("HELLM_RAW_DIR", raising=False)
    for command in commands:
        assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split()[:4] == ["radio-2024", "3", "6", "11"]
    assert "Pop" in shown
    assert "published files" not in caplog.text  # the totals are right
    items = read_items(tmp_path / "dataset/radio-2024", "radio-2024")
    assert items["categories"].tolist()[0] == ["Folk", "Hymn"]
    manifest = read_manifest(tmp_path / "dataset/radio-2024")
    assert manifest is not None
    assert manifest["notes"]["family"] == "radio"
