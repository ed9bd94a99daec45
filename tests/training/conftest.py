"""Fixtures that several tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.processes import (
    ADAPTED,
    EMA,
    FAMILIES,
    HALF,
    HAS_FSDP,
    LAST,
    LIVELY,
    SEVERAL,
    STILL,
    Shared,
)
from support.trainers import Line, Scores
from transformers import AutoModel, LlamaConfig, LlamaModel

from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.training.trainer import HellmTrainer


@pytest.fixture
def make_trainer(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., HellmTrainer]:
    def make(
        scores: list[float] | None = None, model: Any = None, folder: str = "run", **options: Any
    ) -> HellmTrainer:
        config = make_config("BPR", **{"learning_rate": 0.1, "learner": "sgd"} | options)
        evaluator = Scores(scores or [0.1] * 1000)
        directory = RunDirectory(tmp_path / folder)
        return HellmTrainer(config, model or Line(), directory, evaluator)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def shared(
    tiny_data: Path, small_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Shared:
    root = tmp_path_factory.mktemp("shared")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 9}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1}
    shared = Shared(root, tiny_data, small_model)
    LlamaModel(LlamaConfig(**shape, **heads)).save_pretrained(shared.llama)
    shared.plan("ddp", **STILL)
    for family, (config, options) in FAMILIES.items():
        model = AutoModel.from_config(config(**shape, num_attention_heads=4, **options))
        model.save_pretrained(root / family)
        shared.plan(f"ddp-{family}", **ADAPTED, backbone=str(root / family))
    shared.plan("ddp-several", **SEVERAL, backbone=shared.llama, max_tokens=30)
    shared.plan("ddp-cut", **STILL, max_tokens=6)
    shared.plan("whole", **LIVELY)
    shared.plan("killed", **LIVELY, dies_in=1)
    shared.steps.append({"copy": [str(root / "killed"), str(root / "killed-copy")]})
    shared.plan("killed", **LIVELY, resume=True)
    shared.plan("ddp-ema", **STILL, **EMA)
    shared.plan("averaged", **LIVELY, **LAST)
    shared.plan("averaged-killed", **LIVELY, **LAST, dies_in=1)
    shared.plan("averaged-killed", **LIVELY, **LAST, resume=True)
    arguments = {"data_path": str(tiny_data), "runs_dir": str(root / "cli"), "use_gpu": "False"}
    arguments |= {"threads": "1", "epochs": "1", "dataset": "tiny"}
    words = [f"--{key}={value}" for key, value in arguments.items()]
    shared.steps.append({"arguments": ["--model=Pop,SASRec", *words, "--show_progress=True"]})
    if HAS_FSDP:
        adapted = {"backbone": shared.llama} | ADAPTED
        half = {"backbone": shared.llama} | HALF
        lively = adapted | {"epochs": 3, "lora_dropout": 0.3, "learner": "adamw"}
        shared.plan("fsdp", **adapted, parallel="fsdp")
        shared.plan("fsdp-half", **half, parallel="fsdp")
        shared.plan("ddp-half", **half)
        shared.plan("fsdp-tiny", **STILL, parallel="fsdp")
        shared.plan("fsdp-whole", **lively, parallel="fsdp")
        shared.plan("fsdp-killed", **lively, parallel="fsdp", dies_in=1)
        shared.steps.append({"copy": [str(root / "fsdp-killed"), str(root / "fsdp-copy")]})
        shared.plan("fsdp-killed", **lively, parallel="fsdp", resume=True)
    shared.start()
    return shared
