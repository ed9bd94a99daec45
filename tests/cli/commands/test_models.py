from __future__ import annotations

from collections.abc import Callable

import pytest

from recbole_hellm import extensions
from recbole_hellm.cli.main import main


def test_help(shows: Callable[..., str]) -> None:
    text = shows("models")
    assert "--model=NAMEThemodelwhosesettingstolist." in text
    assert "--runs_dir" not in text


def test_models_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "HeLLMPre" in shown
    assert "No other package offers models" in shown
    assert "my_package.my_module:MyModel" in shown
    installed = {"Mine": "pack.mine:Mine"}
    monkeypatch.setattr(extensions, "installed", lambda group: installed)
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "Models of other installed packages\n  Mine: pack.mine:Mine\n" in shown


def test_settings_of_a_model_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--model=HeLLM"]) == 0
    shown = capsys.readouterr().out
    assert "\nbackbone_hidden_size: 128\n" in shown
    assert "\nbilinear_size: 32\n" in shown  # a default that no file repeats
    assert main(["models", "--model=HeLLMPre-wo-CL", "--dataset=Toys"]) == 0
    shown = capsys.readouterr().out
    assert "\nuse_contrast: False\n" in shown
    assert "\nalpha_u2u: 0.03\n" in shown
