from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.benchmark import tuning
from recbole_hellm.benchmark.tuning import TuningSettings
from recbole_hellm.cli.main import main


def test_help(shows: Callable[..., str]) -> None:
    text = shows("tune", TuningSettings)
    assert "--model=NAMEThemodeltotune." in text
    assert "--learning_rate=NUMBER" in text


@pytest.mark.parametrize("model", ["", "VBPR,BPR", "null"])
def test_one_model_is_tuned(tell: Callable[..., str], model: str) -> None:
    told = tell("tune", f"--model={model}")
    assert told == "tune searches one model at a time; name it with --model=NAME."


def test_the_study_gets_all_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def study(*arguments: Any) -> Any:
        calls.append(arguments)
        return types.SimpleNamespace(
            trials=pd.DataFrame({"tau": [0.5], "score": [0.1]}), path=Path("a.yaml")
        )

    monkeypatch.setattr(tuning, "tune", study)
    words = ["--dataset=2018", "--trials=3", "--space=7", "--epochs=2", "--config=b.yaml"]
    assert main(["tune", "--model=VBPR", *words]) == 0
    settings = TuningSettings(trials=3, space="7")
    assert calls == [("VBPR", "2018", settings, {"epochs": 2}, [Path("b.yaml")])]
    shown = capsys.readouterr().out
    assert shown.endswith("Best settings: a.yaml (recbole-hellm run --config=a.yaml)\n")
