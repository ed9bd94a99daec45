from __future__ import annotations

from typing import Any

import pytest

from recbole_hellm.benchmark.compare_settings import CompareSettings
from recbole_hellm.cli.main import main
from recbole_hellm.errors import ConfigError

SEEDS = r"must be a number from 1 upwards, or a list of different seeds like '\[2025, 2026\]'\.$"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(
            ({"seeds": seeds}, SEEDS)
            for seeds in ("2025,2026", 3.5, True, None, -1, 0, (), (1, 1), (1, 2.5), [1, "2"])
        ),
        ({"seeds": 2024}, r"^seeds=2024 asks for 2024 seeds; write seeds='\[2024\]' for the seed"),
        ({"minutes": -5}, r"^minutes=-5 must not be negative\.$"),
        ({"minutes": float("nan")}, "minutes=nan must be a finite number"),
        *(({"datasets": none}, "names no dataset; write") for none in ("", ",", (), ("",))),
    ],
)
def test_what_cannot_be_compared_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompareSettings.from_config({"models": "Pop"} | given)


def test_seeds_are_a_number_or_a_list() -> None:
    for seeds in (1, 3, (7,), (2025, 2026)):
        assert CompareSettings(models="Pop", seeds=seeds).seeds == seeds
    assert CompareSettings.from_config({"models": "Pop", "seeds": [1, 2]}).seeds == (1, 2)
    assert CompareSettings(models="Pop", minutes=0).minutes == 0


@pytest.mark.parametrize(
    "option", ["--seeds=2025,2026", "--minutes=-5", "--datasets=", "--dataset="]
)
def test_the_command_line_says_so(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--models=Pop", option]) == 2
    output = capsys.readouterr().err
    assert output.startswith("recbole-hellm: ")
    assert option.strip("-=").partition("=")[0] in output
