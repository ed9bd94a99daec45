from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tracked import RECORDER, Recorder

from recbole_hellm.errors import ConfigError
from recbole_hellm.tracking import finding
from recbole_hellm.tracking.finding import check_trackers, find_tracker, make_trackers
from recbole_hellm.tracking.tensorboard import TensorBoardTracker


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_trackers_are_found_by_name_and_import_path() -> None:
    assert find_tracker("tensorboard") is TensorBoardTracker
    assert find_tracker(RECORDER) is Recorder
    made = make_trackers(["tensorboard", RECORDER, "tensorboard"])
    assert [type(tracker) for tracker in made.values()] == [TensorBoardTracker, Recorder]


def test_installed_packages_offer_trackers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = {"mine": RECORDER, "tensorboard": RECORDER}
    monkeypatch.setattr(finding, "installed", lambda group: offered if "trackers" in group else {})
    assert find_tracker("mine") is Recorder
    assert find_tracker("tensorboard") is TensorBoardTracker  # this package's own come first


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_told_with_the_command_before_anything_is_trained(
    name: str, monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Any]
) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *more: None if n == name else original(n, *more)
    )
    sentence = (
        f"The tracker {name} needs the package '{name}', which is not installed; "
        rf"run `pip install 'recbole-hellm\[{name}\]'`\."
    )
    with pytest.raises(ConfigError, match=sentence):
        make_config("BPR", trackers=f"tensorboard,{name}")
    with pytest.raises(ConfigError, match=sentence):
        find_tracker(name)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_folder_of_a_trackers_name_is_no_package(
    name: str, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / name).mkdir()
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(modules)])
    with pytest.raises(ConfigError, match=f"'{name}', which is not installed"):
        check_trackers([name])


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_cannot_be_imported_is_told(
    name: str, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / f"{name}.py").write_text("raise ImportError('it needs protobuf 3. Or older.')\n")
    for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delitem(sys.modules, f"recbole_hellm.tracking.{name}", raising=False)
    with pytest.raises(ConfigError, match=r"cannot be imported \(it needs protobuf 3\); run `pip"):
        find_tracker(name)
    sys.modules.pop(name, None)


def test_wrong_names_are_told() -> None:
    with pytest.raises(ConfigError, match=r"no tracker named 'mlflw' \(did you mean mlflow\?\)"):
        check_trackers(["mlflw"])
    with pytest.raises(ConfigError, match=r"use some of mlflow, tensorboard, wandb, or the import"):
        check_trackers(["x"])
    with pytest.raises(ConfigError, match="There is no module 'absent' for the tracker absent:T"):
        check_trackers(["absent:T"])


def test_what_is_no_tracker_is_told(modules: Path) -> None:
    (modules / "own_trackers.py").write_text(
        "class Half:\n"
        "    def start(self, run, settings): return 0\n"
        "    def curves(self, values, step): pass\n"
        "class Asks:\n"
        "    def __init__(self, url): pass\n"
        "    start = curves = results = artefact = finish = lambda self, *given: 0\n"
        "def function(): pass\n"
        "ready = Asks('here')\n"
    )
    lacking = "Half lacks results, artefact, finish; derive a class from Tracker"
    with pytest.raises(ConfigError, match=lacking):
        find_tracker("own_trackers:Half")
    with pytest.raises(ConfigError, match="function lacks start"):
        find_tracker("own_trackers:function")
    with pytest.raises(ConfigError, match="ready is no class"):
        find_tracker("own_trackers:ready")
    with pytest.raises(ConfigError, match="Asks cannot be made without arguments"):
        make_trackers(["own_trackers:Asks"])
