from __future__ import annotations

import logging

import pytest

from recbole_hellm.config.logs import configure_logging


def test_progress_of_this_package_and_warnings_of_others_are_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, package = logging.getLogger(), logging.getLogger("recbole_hellm")
    monkeypatch.setattr(root, "handlers", [])
    levels = root.level, package.level
    configure_logging()
    logging.getLogger("recbole_hellm.some").info("epoch 1")
    logging.getLogger("other").info("a detail")
    logging.getLogger("other").warning("a warning")
    root.setLevel(levels[0])
    package.setLevel(levels[1])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["epoch 1", "a warning"]
