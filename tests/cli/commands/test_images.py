from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.data.downloads import images
from recbole_hellm.data.downloads.images import ImageSettings


def test_help(shows: Callable[..., str]) -> None:
    shows("images", ImageSettings)


def test_the_dataset_and_its_folder_are_handed_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fetch(*arguments: Any) -> Any:
        calls.append(arguments)
        return types.SimpleNamespace(describe=lambda: "Pictures: 3")

    monkeypatch.setattr(images, "fetch_images", fetch)
    assert main(["images", "--dataset=007", "--data_path=12", "--workers=2"]) == 0
    assert calls == [("007", Path("12/007"), ImageSettings(workers=2))]
    assert capsys.readouterr().out == "Pictures: 3\n"
