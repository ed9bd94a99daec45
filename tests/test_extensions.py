from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recbole_hellm.errors import ConfigError
from recbole_hellm.extensions import installed, is_import_path, load_object


@pytest.mark.parametrize(
    ("name", "is_path"),
    [
        ("pkg.module:Name", True),
        ("module:Name", True),
        ("Name", False),
        ("module:", False),
        ("module:a.b", False),
        ("pkg..module:Name", False),
        ("text-minilm", False),
    ],
)
def test_import_paths_are_told_from_names(name: str, is_path: bool) -> None:
    assert is_import_path(name) is is_path


def test_objects_of_the_working_directory_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_extension_module.py").write_text("import math\n\nPI = math.pi\n")
    (tmp_path / "my_broken_module.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert load_object("my_extension_module:PI", "constant") == pytest.approx(3.14159, abs=1e-4)
    with pytest.raises(ConfigError, match="has no 'E', which constant=my_extension_module:E names"):
        load_object("my_extension_module:E", "constant")
    with pytest.raises(ConfigError, match="no module 'my_absent_module' for the model"):
        load_object("my_absent_module:Model", "model")
    with pytest.raises(ConfigError, match="needs the package 'a_package_that_nobody_has'"):
        load_object("my_broken_module:Model", "model")


def test_installed_packages_offer_names() -> None:
    assert "recbole-hellm" in installed("console_scripts")
