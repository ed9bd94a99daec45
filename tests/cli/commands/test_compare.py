from __future__ import annotations

from collections.abc import Callable

import pytest

from recbole_hellm import comparisons
from recbole_hellm.benchmark.compare_settings import CompareSettings
from recbole_hellm.cli.main import main, parse_options
from recbole_hellm.comparisons import ComparisonReport
from recbole_hellm.errors import ConfigError


def test_help(shows: Callable[..., str]) -> None:
    text = shows("compare", CompareSettings)
    assert "--datasets,--dataset=TEXT|LIST" in text
    assert "--models,--model=TEXT|LIST" in text


def test_settings_of_the_compared_models_are_read_as_declared() -> None:
    words = ["--benchmark=fig3", "--variant=007", "--records=12"]
    expected = {"benchmark": "fig3", "records": "12", "variant": "007"}
    assert parse_options(words, "compare") == expected
    words = ["--model=Pop,VBPR", "--sampling=1", "--seeds=[1, 2]", "--minutes=0.5"]
    expected = {"models": "Pop,VBPR", "sampling": "1", "seeds": [1, 2], "minutes": 0.5}
    assert parse_options(words, "compare") == expected
    with pytest.raises(ConfigError, match="needs --benchmark=NAME or --models"):
        parse_options(["--tau=1"], "compare")


def test_a_comparison_that_is_not_complete_is_shown_and_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ComparisonReport("the tables", {"Toys": "no data"})
    monkeypatch.setattr(comparisons, "report", lambda *_: shown)
    assert main(["compare", "--models=Pop"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "the tables\n"
    assert captured.err == "recbole-hellm: The comparison is not complete: Toys: no data\n"
