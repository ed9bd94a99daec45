from __future__ import annotations

import json
import shlex
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.benchmark import tuning
from recbole_hellm.benchmark.tuning import TuningSettings
from recbole_hellm.cli.main import main
from recbole_hellm.config.yaml_files import as_yaml
from recbole_hellm.training.trainer import HellmTrainer


def test_help(shows: Callable[..., str]) -> None:
    text = shows("tune", TuningSettings)
    assert "--model=NAMEThemodeltotune." in text
    assert "--learning_rate=NUMBER" in text


@pytest.mark.parametrize("model", ["", "VBPR,BPR", "null"])
def test_one_model_is_tuned(tell: Callable[..., str], model: str) -> None:
    told = tell("tune", f"--model={model}")
    assert told == "tune searches one model at a time; name it with --model=NAME."


def test_the_study_gets_all_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text("stopping_step: 3\n")
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
    assert shown.endswith(
        "Best settings: a.yaml; the run with them:\n"
        "recbole-hellm run --model=VBPR --dataset=2018 --config=b.yaml,a.yaml --resume=True "
        "--epochs=2\n"
    )


def test_the_last_line_is_a_command_that_works(
    quick: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    space = tmp_path / "my space.yaml"
    space.write_text("embedding_size: [4]\n")
    Path("given's.yaml").write_text("learning_rate: 0.03\n")
    settings = {key: value for key, value in quick.items() if key != "runs_dir"}
    words = [
        *(f"--{key}={as_yaml(value)}" for key, value in settings.items()),
        *("--model=BPR", "--dataset=tiny", "--config=given's.yaml", "--runs_dir=a b/$HOME"),
        *(f"--space={space}", "--studies_dir=the studies", "--trials=1"),
        *("--BPR.stopping_step=4", "--metrics=[NDCG, MRR]"),
    ]
    assert main(["tune", *words]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    program, *line = shlex.split(last)
    trained = []
    monkeypatch.setattr(HellmTrainer, "_train_epoch", lambda *_, **__: trained.append(1))
    assert program == "recbole-hellm"
    assert main(line) == 0
    assert not trained  # the trial's training is taken up
    (finished,) = Path("a b/$HOME/tiny/BPR").glob("*/metrics.json")
    assert "mrr@10" in json.loads(finished.read_text())["test"]["seen"]
