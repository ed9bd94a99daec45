from __future__ import annotations

from collections.abc import Callable

from recbole_hellm.reporting.recommendations import RecommendSettings


def test_help(shows: Callable[..., str]) -> None:
    text = shows("recommend", RecommendSettings)
    assert "--run=RUNDirectoryofafinishedrun." in text


def test_a_run_must_be_named(tell: Callable[..., str]) -> None:
    told = tell("recommend", "--user=1", keep=False)
    assert told == "recommend needs a finished run; name its directory with --run=RUN."
