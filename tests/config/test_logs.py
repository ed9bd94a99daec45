from __future__ import annotations

import logging

import pytest

from recbole_hellm.config.logs import configure_logging


def test_progress_of_this_package_and_warnings_of_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, package = logging.getLogger(), logging.getLogger("recbole_hellm")
    monkeypatch.setattr(root, "handlers", [])  # pytest's would keep basicConfig from acting
    before = root.level, package.level
    try:
        configure_logging()
        logging.getLogger("recbole_hellm.runs.running").info("epoch 1")
        logging.getLogger("recbole_hellm.runs.running").debug("details")
        logging.getLogger("another").info("chatter")
        logging.getLogger("another").warning("trouble")
    finally:
        root.setLevel(before[0])
        package.setLevel(before[1])
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["epoch 1", "trouble"]
