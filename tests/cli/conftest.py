from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.config.settings import Settings
from recbole_hellm.config.yaml_files import as_yaml
from recbole_hellm.runs import running

Tell = Callable[..., str]
Shows = Callable[..., str]


@pytest.fixture
def options(quick: dict[str, Any]) -> list[str]:
    return ["--dataset=tiny", *(f"--{key}={value}" for key, value in quick.items())]


@pytest.fixture
def tell(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tell:
    """Run a command line that must fail before anything is trained; gives its sentence."""

    def never(*_: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(running, "train", never)

    def run(*arguments: str, keep: bool = True) -> str:
        given = {argument.partition("=")[0] for argument in arguments}
        rest = [option for option in options if option.partition("=")[0] not in given]
        capsys.readouterr()
        assert main([*arguments, *(rest if keep else [])]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        last = captured.err.strip().splitlines()[-1]
        assert last.startswith("recbole-hellm: ")
        assert last.endswith((".", "'"))
        return last.removeprefix("recbole-hellm: ")

    return run


@pytest.fixture
def shows(capsys: pytest.CaptureFixture[str]) -> Shows:
    """Check that the help of a command shows all settings of classes; gives it without blanks."""

    def check(command: str, *classes: type[Settings]) -> str:
        capsys.readouterr()
        assert main([*command.split(), "--help"]) == 0
        text = "".join(capsys.readouterr().out.split())
        assert text.startswith(f"Usage:recbole-hellm{command.split()[0]}")
        for cls in classes:
            for key, declaration in cls.declarations().items():
                assert f"--{key}" in text
                shown = "".join(declaration.help.split())
                if declaration.default not in (None, "", False):
                    shown += "[default:" + "".join(as_yaml(declaration.default).split()) + "]"
                assert shown in text
        return text

    return check
