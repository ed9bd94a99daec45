from __future__ import annotations

import io
import sys

import pytest
from transformers.utils import logging

from recbole_hellm.progress import bars, progress_bar, transformers_bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, error: io.StringIO, **options: bool) -> bool:
    monkeypatch.setattr(sys, "stderr", error)
    with progress_bar(range(3), file=error, desc="counting", **options) as bar:
        assert [*bar] == [0, 1, 2]
    assert error.getvalue() == "" or "counting: 100%" in error.getvalue()
    return bool(error.getvalue())


def test_bars_are_shown_in_terminals_and_notebooks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert shown(monkeypatch, Terminal())
    assert not shown(monkeypatch, io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert shown(monkeypatch, io.StringIO())
    assert not shown(monkeypatch, Terminal(), show=False)


def test_a_wish_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with bars(True):
        assert shown(monkeypatch, io.StringIO())
        assert not shown(monkeypatch, io.StringIO(), show=False)
        with bars(False):
            assert not shown(monkeypatch, Terminal())
        with bars(None):
            assert not shown(monkeypatch, io.StringIO())
    assert shown(monkeypatch, Terminal())


def test_bars_of_transformers_are_hidden_with_ours() -> None:
    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    with bars(False), transformers_bars():
        with transformers_bars():
            assert not logging.is_progress_bar_enabled()
        assert not logging.is_progress_bar_enabled()
        with logging.tqdm(range(3), desc="Loading weights") as bar:
            assert [*bar] == [0, 1, 2]
    assert logging.is_progress_bar_enabled()
    with bars(True), transformers_bars():
        assert logging.is_progress_bar_enabled()
    if not before:
        logging.disable_progress_bar()
