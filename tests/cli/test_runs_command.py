from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_hellm.cli.main import load_command, parse_options
from recbole_hellm.config.resolution import HellmConfig, check_addressed
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.models.sequential.hellm import HeLLM

Tell = Callable[..., str]
Shows = Callable[..., str]


def test_a_commands_own_keys_are_meant_only_where_they_can_be_given(
    tell: Tell, tmp_path: Path
) -> None:
    for told in (
        tell("tune", "--model=VBPR", "--VBPR.trails=4"),
        tell("run", "--model=VBPR", "--trails=4"),
    ):
        assert "Unknown option 'trails' for model VBPR" in told
        assert "trials" not in told
    (tmp_path / "a.yaml").write_text("trials: 4\n", encoding="utf-8")
    told = tell("tune", "--model=VBPR", f"--config={tmp_path}/a.yaml")
    assert "did you mean trials" not in told


MODULE = """
from recbole.model.general_recommender.bpr import BPR
from recbole_hellm.config.settings import Settings, setting

class MySettings(Settings):
    label: str = setting("none", "A label.")

class MyOwnBPR(BPR):
    settings_classes = (MySettings,)
"""


def test_the_help_shows_the_settings_of_named_models(shows: Shows) -> None:
    text = shows("run --model=HeLLM --dataset=Beauty")
    for cls in HeLLM.settings_classes:
        for key, declaration in cls.declarations().items():
            assert f"--{key}" in text
            assert "".join(declaration.help.split()) in text
    config = HellmConfig("HeLLM", "Beauty").internal_config_dict
    assert config["train_batch_size"] != RunSettings.declarations()["train_batch_size"].default
    assert f"Trainingrowsofastep.[default:{config['train_batch_size']}]" in text
    text = shows("run --model=VBPR,BPR")
    assert "--sampling=interactions|users" in text
    assert "BPR:--embedding_size=VALUE[default:64]" in text
    assert "--backbone" not in text


def test_texts_are_those_that_the_model_declares() -> None:
    words = ["--model=HeLLM,BPR", "--backbone=0012", "--lora_targets=[1, b]", "--n_layers=3"]
    words += ["--USER_ID_FIELD=user", "--VBPR.sampling=on", "--BPR.embedding_size=8"]
    assert parse_options(words) == {
        "model": "HeLLM,BPR",
        "backbone": "0012",
        "lora_targets": ["1", "b"],
        "n_layers": 3,
        "USER_ID_FIELD": "user",
        "VBPR.sampling": "on",
        "BPR.embedding_size": 8,
    }
    assert parse_options(["--model=BPR", "--Nope.size=8"])["Nope.size"] == 8
    assert parse_options(["--model=BPR", "--backbone=0012"])["backbone"] == 10  # a number in YAML


def test_a_model_of_ones_own_is_addressed_by_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell, shows: Shows
) -> None:
    (tmp_path / "my_models.py").write_text(MODULE)
    (tmp_path / "MyOwnBPR.yaml").write_text("embedding_size: 8\n")
    monkeypatch.syspath_prepend(tmp_path)
    for words in (
        ["--model=my_models:MyOwnBPR"],
        ["--model=BPR,my_models:MyOwnBPR"],
        ["--model=HeLLM", "--HeLLM.graph_model=my_models:MyOwnBPR"],
    ):
        options = parse_options([*words, "--MyOwnBPR.label=007"])
        assert options["MyOwnBPR.label"] == "007"
    assert "my_models:MyOwnBPR:--label=TEXTAlabel.[default:none]--embedding_size=VALUE" in shows(
        "run --model=my_models:MyOwnBPR"
    )
    models = ["BPR", "my_models:MyOwnBPR"]
    configs = [HellmConfig(model, "sample", {"MyOwnBPR.label": "007"}) for model in models]
    check_addressed(configs)
    assert configs[1]["label"] == "007"
    told = tell("run", "--model=my_models:MyOwnBPR", "--MyOwnBPR.lable=1")
    assert "Unknown option 'lable' for model my_models:MyOwnBPR (did you mean label?)" in told


def test_settings_of_runs_are_apart_from_the_commands_own() -> None:
    command = load_command("run")
    options = {"model": "BPR", "seed": 1, "BPR.epochs": 2}
    assert command.callback_arguments(options) == {
        "options": {"model": "BPR"},
        "overrides": {"seed": 1, "BPR.epochs": 2},
    }
