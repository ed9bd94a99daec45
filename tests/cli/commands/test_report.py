from __future__ import annotations

from collections.abc import Callable

from recbole_hellm.reporting.report import ReportSettings


def test_help(shows: Callable[..., str]) -> None:
    text = shows("report", ReportSettings)
    assert "Usage:recbole-hellmreportRUNS...[--KEY=VALUE...]" in text


def test_runs_must_be_named(tell: Callable[..., str]) -> None:
    told = tell("report", "--users=0", keep=False)
    assert told == "report needs finished runs; name their directories: report RUN [RUN]."
