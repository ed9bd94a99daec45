from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from recbole_hellm.config.logs import configure_logging, log_file


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


PACKAGE = logging.getLogger("recbole_hellm")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a program shows that logs warnings alone."""
    shown = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(shown)])
    monkeypatch.setattr(PACKAGE, "level", logging.NOTSET)
    PACKAGE.manager._clear_cache()  # type: ignore[attr-defined]
    return shown


def test_a_file_holds_progress_that_is_not_shown(tmp_path: Path, root: io.StringIO) -> None:
    some = logging.getLogger("recbole_hellm.some")
    for _ in range(2):  # a second training goes on in the same file
        with log_file(tmp_path / "run.log"):
            some.info("epoch 1")
            some.warning("a warning")
            logging.getLogger("other").warning("another's")
    some.info("after")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO epoch 1", "WARNING a warning"] * 2
    assert root.getvalue().splitlines() == ["a warning", "another's"] * 2
    assert (PACKAGE.handlers, PACKAGE.level, PACKAGE.propagate) == ([], logging.NOTSET, True)


def test_what_is_shown_stays_shown(tmp_path: Path, root: io.StringIO) -> None:
    PACKAGE.setLevel(logging.INFO)
    with log_file(tmp_path / "run.log"), log_file(tmp_path / "stage.log"):
        PACKAGE.info("epoch 1")
    assert root.getvalue().splitlines() == ["epoch 1"]
    for name in ("run.log", "stage.log"):
        assert (tmp_path / name).read_text().endswith("INFO epoch 1\n")
    PACKAGE.setLevel(logging.NOTSET)


def test_nested_logs_show_nothing_twice(tmp_path: Path, root: io.StringIO) -> None:
    with log_file(tmp_path / "run.log"), log_file(tmp_path / "stage.log"):
        PACKAGE.warning("once")
        PACKAGE.info("silent")
    assert root.getvalue().splitlines() == ["once"]
    assert (tmp_path / "stage.log").read_text() == (tmp_path / "run.log").read_text()


def test_a_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, root: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_file(tmp_path / "none/run.log"):
        PACKAGE.warning("a warning")
        (tmp_path / "none").mkdir()
        PACKAGE.warning("another")
    assert not any((tmp_path / "none").iterdir())
    assert root.getvalue().splitlines() == ["a warning", "another"]
    assert capsys.readouterr().err == ""
