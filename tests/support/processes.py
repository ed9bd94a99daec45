"""Runs that two processes share, over gloo on the CPU, for tests of distributed training."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from transformers import Gemma3TextConfig, Qwen3Config

from recbole_hellm import load_run, run
from recbole_hellm.runs.results import RunResult

MASKINGS = ("seen", "train", "none")

HAS_GLOO = dist.is_available() and dist.is_gloo_available()

HAS_FSDP = HAS_GLOO and importlib.util.find_spec("torch.distributed.fsdp._fully_shard") is not None

needs_gloo = pytest.mark.skipif(not HAS_GLOO, reason="this PyTorch has no gloo")

needs_fsdp = pytest.mark.skipif(not HAS_FSDP, reason="this PyTorch has no FSDP2 (fully_shard)")


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more


class Shared:
    """What two processes left, beside what one process is told to do."""

    def __init__(self, root: Path, data: Path, options: dict[str, Any]) -> None:
        self.root, self.log = root, ""
        self.steps: list[dict[str, Any]] = []
        self.llama = str(root / "llama")
        self.base = options | {
            "data_path": str(data),
            "show_progress": False,
            "use_gpu": False,
            "threads": 1,
            "eval_users": 8,
            "save_topk": 4,
        }

    def options(self, folder: str, **more: Any) -> dict[str, Any]:
        return self.base | {"runs_dir": str(self.root / folder)} | more

    def plan(
        self,
        folder: str,
        *,
        model: str = "HeLLM",
        dataset: str = "tiny",
        dies_in: int | None = None,
        **more: Any,
    ) -> None:
        step = {"model": model, "dataset": dataset, "options": self.options(folder, **more)}
        self.steps.append(step if dies_in is None else step | {"dies_in": dies_in})

    def copy(self, folder: str, target: str) -> None:
        self.steps.append({"copy": [str(self.root / folder), str(self.root / target)]})

    def start(self) -> None:
        path = self.root / "plan.json"
        path.write_text(json.dumps(self.steps))
        worker = Path(__file__).with_name("distributed_worker.py")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
        command += ["--master_addr=127.0.0.1", f"--master_port={free_port()}", str(worker)]
        done = subprocess.run(  # noqa: S603
            [*command, str(path)], capture_output=True, text=True, env=environment(), timeout=240
        )
        self.log = done.stdout + done.stderr
        assert done.returncode == 0, self.log[-6000:]

    def result(self, folder: str, model: str = "HeLLM", dataset: str = "tiny") -> RunResult:
        (path,) = (self.root / folder / dataset / model).iterdir()
        return load_run(path)

    def single(self, folder: str, **more: Any) -> RunResult:
        """The same by this process alone, on the stages that were trained there."""
        target = self.root / f"{folder}-single"
        if not target.is_dir():
            shutil.copytree(
                self.root / folder, target, ignore=lambda path, names: {"HeLLM"} & set(names)
            )
        with one_thread():
            return run("HeLLM", "tiny", **self.options(target.name, **more))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums in the order of the processes, which have one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


STILL = {"backbone_dropout": 0.0, "prefix_dropout": 0.0, "learner": "sgd", "learning_rate": 0.05}

STILL |= {"epochs": 2}

ADAPTED = STILL | {"prompt": "none", "lora_dropout": 0.0, "learning_rate": 0.5}

ADAPTED |= {"train_batch_size": 32, "clip_grad_norm": {"max_norm": 0.05}}

HALF = ADAPTED | {"backbone_dtype": "bfloat16", "max_tokens": 40, "gradient_checkpointing": True}

SEVERAL = ADAPTED | {"prefix": "static"}

LIVELY = {"epochs": 3, "learning_rate": 0.01}

EMA = {"weight_averaging": "ema", "ema_decay": 0.8}

LAST = {"weight_averaging": "last", "averaged_epochs": 2}

FAMILIES = {
    "qwen3": (Qwen3Config, {"num_key_value_heads": 2, "head_dim": 8}),
    "gemma3": (Gemma3TextConfig, {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 3}),
}


def weights(result: RunResult) -> dict[str, torch.Tensor]:
    return torch.load(result.path / "best.pt", weights_only=True)["model"]


def assert_same_weights(first: RunResult, second: RunResult, **tolerance: float) -> None:
    left, right = weights(first), weights(second)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], **tolerance, msg=name)


def tables(result: RunResult) -> dict[str, Any]:
    files = sorted(result.path.glob("*.parquet"))
    assert [path.name for path in files] == [
        *(f"ranks-{masking}.parquet" for masking in sorted(MASKINGS)),
        "topk-seen.parquet",
    ]
    return {path.name: pd.read_parquet(path).to_dict("list") for path in files}
