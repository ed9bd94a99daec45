"""The settings of a protocol, as they are checked, recorded and told."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from recbole_hellm.cli.main import parse_options
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.split_settings import described, in_file_name, protocol
from recbole_hellm.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"split": "loo"}, "split='loo' is not allowed; use one of leave_one_out, temporal, ratio"),
        ({"split_points": [0.7, 0.8]}, r"split_points=\[0.7, 0.8\] is for split=temporal, and spl"),
        (
            {"split": "temporal", "split_ratios": [7, 1, 2]},
            r"split_ratios=\[7, 1, 2\] is for split",
        ),
        ({"split": "temporal", "split_order": "random"}, "split_order=random is for split=ratio"),
        ({"split_rows": "user"}, "split_rows=user is for split=temporal or ratio"),
        ({"split_seed": 7}, "split_seed=7 is for split_order=random and for sampled candidates"),
        ({"split": "ratio", "split_seed": 7}, "split_seed=7 is for split_order=random"),
        ({"split": "ratio", "split_ratios": [8, 0, 2]}, r"split_ratios=\[8, 0, 2\] must be three"),
        ({"split": "ratio", "split_ratios": [8, 2]}, "split_ratios"),
        ({"split": "temporal", "split_points": [0.9, 0.8]}, r"\[0.9, 0.8\] must be in order"),
        ({"split": "temporal", "split_points": [0.8, 0.8]}, "must be in order"),
        ({"split": "temporal", "split_points": [0.8, 1]}, "lies between 0 and 1"),
        ({"split": "temporal", "split_points": ["2014-07-01", "2014-06-01"]}, "must be in order"),
        ({"split": "temporal", "split_points": ["July", 0.9]}, "'July' is no date; write one such"),
        ({"candidates": "uniform-99"}, "use one of all, uniform-100, popularity-100"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RunSettings(**values)


def test_dates_may_be_dates_of_yaml_or_texts_and_mixed_with_shares() -> None:
    dates = [datetime.date(2014, 6, 1), datetime.datetime(2014, 7, 1, 12)]
    settings = RunSettings(split="temporal", split_points=dates)
    assert settings.canonical()["split_points"] == ["2014-06-01", "2014-07-01T12:00:00"]
    assert RunSettings(split="temporal", split_points=[0.8, "2014-07-01T00:00:00+02:00"])


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, ""),
        ({"split": "temporal"}, "-temporal"),
        ({"split": "temporal", "split_rows": "interaction"}, "-temporal-interaction"),
        (
            {"split": "temporal", "split_points": [0.75, "2014-07-01T12:00"]},
            "-temporal-0.75-2014-07-01T12-00",
        ),
        ({"split": "ratio", "split_order": "random", "split_seed": 3}, "-ratio-random-3"),
        ({"candidates": "uniform-100"}, "-uniform-100"),
    ],
)
def test_files_of_tables_are_called_after_the_protocol(values: dict[str, Any], name: str) -> None:
    settings, defaults = RunSettings(**values).to_dict(), RunSettings().to_dict()
    assert in_file_name(settings, defaults) == name


def test_the_command_line_gives_texts(make_config: Callable[..., Any]) -> None:
    words = ["--split=temporal", "--split_points=[0.6, 2014-07-01]", "--split_rows=user"]
    given = parse_options(words)
    settings = RunSettings(**given)
    assert settings.split_points == (0.6, "2014-07-01")
    plain = parse_options(["--split=ratio", "--split_ratios=[6, 2, 2]"])
    assert make_config("BPR", **plain)["split_ratios"] == [6.0, 2.0, 2.0]


def test_runs_without_a_split_keep_their_settings(make_config: Callable[..., Any]) -> None:
    keys = {key for key in RunSettings.declarations() if key.startswith("split")} | {"candidates"}
    assert len(keys) == 7
    plain = make_config("BPR").identifying_settings()
    assert not keys & set(plain)
    given = {"split": "ratio", "split_ratios": [8, 1, 1]}  # as by default
    assert set(make_config("BPR", **given).identifying_settings()) - set(plain) == {"split"}


def test_one_way_of_writing_is_recorded(make_config: Callable[..., Any]) -> None:
    config = make_config("BPR", split="ratio", split_ratios=[6, 2, 2])
    assert config.identifying_settings()["split_ratios"] == [6.0, 2.0, 2.0]
    dates = [datetime.date(2014, 6, 1), "2014-07-01"]
    config = make_config("BPR", split="temporal", split_points=dates)
    assert config.identifying_settings()["split_points"] == ["2014-06-01", "2014-07-01"]


def test_stages_share_the_split(make_config: Callable[..., Any]) -> None:
    config = make_config("HeLLM", split="temporal", split_points=[0.6, 0.8], candidates="all")
    for stage in config.stages().values():
        assert (stage["split"], stage["split_points"]) == ("temporal", [0.6, 0.8])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, {}),
        ({"split": "temporal"}, {"split": "temporal", "split_points": [0.8, 0.9]}),
        # Rows may differ between the methods that are compared.
        (
            {"split": "ratio", "split_rows": "user"},
            {"split": "ratio", "split_ratios": [8.0, 1.0, 1.0], "split_order": "time"},
        ),
        ({"candidates": "uniform-100"}, {"candidates": "uniform-100", "split_seed": 2024}),
    ],
)
def test_a_protocol_is_what_differs_from_the_default(
    values: dict[str, Any], told: dict[str, Any]
) -> None:
    assert protocol(RunSettings(**values).to_dict()) == told


def test_a_random_split_tells_its_seed() -> None:
    settings = RunSettings(split="ratio", split_order="random", split_seed=5)
    assert protocol(settings.to_dict())["split_seed"] == 5


def test_headers_tell_the_protocol_and_warn_of_samples() -> None:
    assert described({}) == ""
    points = {"split": "temporal", "split_points": [0.8, "2014-07-01"]}
    assert described({"protocol": points}) == "split=temporal, split_points=[0.8, 2014-07-01]"
    sampled = described({"protocol": {"candidates": "uniform-100", "split_seed": 1}})
    assert sampled == (
        "candidates=uniform-100, split_seed=1, SAMPLED METRICS, for comparison with old papers only"
    )
