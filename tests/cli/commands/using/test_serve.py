from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from recbole_hellm.cli.main import main, parse_options
from recbole_hellm.serving import server
from recbole_hellm.serving.settings import ServeSettings


def test_help(shows: Callable[..., str]) -> None:
    text = shows("serve", ServeSettings)
    assert "--run=RUN[,RUN]Directoriesoffinishedrunsofonedataset" in text


def test_a_run_must_be_named(tell: Callable[..., str]) -> None:
    told = tell("serve", "--port=0", keep=False)
    assert told == "serve needs finished runs; name a directory with --run=RUN."


def test_runs_are_named_with_commas_or_one_by_one(tell: Callable[..., str]) -> None:
    together = parse_options(["--run=a,b", "--run=c"], "serve")
    assert together == parse_options(["--run=a", "--run=b", "--run", "c"], "serve")
    assert together == {"run": "a,b,c"}
    told = tell("serve", "--run=a", "--port=1", "--port=2", keep=False)
    assert told == "Option --port is given twice; keep one of them."


def test_the_address_is_told_before_and_the_end_after(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bound:
        url = "http://127.0.0.1:1/"

        def serve(self) -> None:
            assert "http://127.0.0.1:1/ until Ctrl+C" in capsys.readouterr().out

    def prepare(runs: Any, settings: ServeSettings) -> Bound:
        assert (runs, settings.port) == ("a,b", 1)
        return Bound()

    monkeypatch.setattr(server, "prepare_server", prepare)
    assert main(["serve", "--run=a", "--run=b", "--port=1"]) == 0
    assert capsys.readouterr().out == "Ended.\n"


def test_a_missing_package_is_told(
    tell: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "fastapi", sys)
    assert "run `pip install 'recbole-hellm[serve]'`." in tell("serve", "--run=a", keep=False)
