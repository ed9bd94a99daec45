"""Several processes do what one does: two of them on the CPU, over gloo."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel, Gemma3TextConfig, LlamaConfig, LlamaModel, Qwen3Config

from recbole_hellm import load_run, run
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.evaluation.evaluator import Evaluator
from recbole_hellm.runs.opening import build_model
from recbole_hellm.runs.results import RunResult
from recbole_hellm.runs.tensorboard import ITEM_VECTORS
from recbole_hellm.training.distributed import Processes, alone, current, process_group

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


# Runs shared by two processes ---------------------------------------------------------------------


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

    def plan(self, folder: str, *, dies_in: int | None = None, **more: Any) -> None:
        step = {"model": "HeLLM", "options": self.options(folder, **more)}
        self.steps.append(step if dies_in is None else step | {"dies_in": dies_in})

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

    def result(self, folder: str, model: str = "HeLLM") -> RunResult:
        (path,) = (self.root / folder / "tiny" / model).iterdir()
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


FAMILIES = {
    "qwen3": (Qwen3Config, {"num_key_value_heads": 2, "head_dim": 8}),
    "gemma3": (Gemma3TextConfig, {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 3}),
}


@pytest.fixture(scope="module")
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
    arguments = {"data_path": str(tiny_data), "runs_dir": str(root / "cli"), "use_gpu": "False"}
    arguments |= {"threads": "1", "epochs": "1", "dataset": "tiny"}
    given = [f"--{key}={value}" for key, value in arguments.items()]
    shared.steps.append({"arguments": ["--model=Pop,SASRec", *given, "--show_progress=True"]})
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


def weights(result: RunResult) -> dict[str, torch.Tensor]:
    return torch.load(result.path / "best.pt", weights_only=True)["model"]


def assert_same_weights(first: RunResult, second: RunResult, **tolerance: float) -> None:
    left, right = weights(first), weights(second)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], **tolerance, msg=name)


def scalars(result: RunResult, tag: str) -> list[float]:
    events = EventAccumulator(str(result.path))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def tables(result: RunResult) -> dict[str, Any]:
    found = sorted(result.path.glob("*.parquet"))
    assert [path.name for path in found] == [
        *(f"ranks-{masking}.parquet" for masking in sorted(MASKINGS)),
        "topk-seen.parquet",
    ]
    return {path.name: pd.read_parquet(path).to_dict("list") for path in found}


def assert_scored_like_one_process(result: RunResult, options: dict[str, Any]) -> None:
    """One process gives the same numbers, to the last digit, on the same weights."""
    config = HellmConfig("HeLLM", "tiny", options)
    dataset = create_dataset(config)
    parts = dataset.build()
    with one_thread():
        evaluator = Evaluator(config, dataset, {"valid": parts[1], "test": parts[2]})
        model = build_model(config, parts[0])
        model.load_state_dict(weights(result))
        test = evaluator.evaluate(model, "test", MASKINGS)
        valid = evaluator.evaluate(model, "valid", ("seen",))
    assert test.metrics == result.record["test"]
    assert valid.metrics == result.record["valid"]
    found = tables(result)
    for masking in MASKINGS:
        for name in ("higher", "tied", "candidates"):
            assert (
                getattr(test.ranks[masking], name).tolist()
                == (found[f"ranks-{masking}.parquet"][name])
            )
    items = dataset.id2token(dataset.iid_field, test.topk.ravel())
    assert list(items) == found["topk-seen.parquet"]["item"]


@needs_gloo
@pytest.mark.parametrize(("folder", "more"), [("ddp", {}), ("ddp-cut", {"max_tokens": 6})])
def test_two_copies_train_like_one(shared: Shared, folder: str, more: dict[str, Any]) -> None:
    found = shared.result(folder)
    assert found.record["cost"]["processes"] == 2
    alone = shared.single(folder, **STILL, **more)
    assert alone.record["cost"]["processes"] == 1
    assert alone.path.name == found.path.name  # the same run, however it is carried out
    assert_same_weights(found, alone, rtol=1e-4, atol=1e-6)
    assert found.record["best_epoch"] == alone.record["best_epoch"]
    assert_scored_like_one_process(found, shared.options(folder, **STILL, **more))
    losses = [scalars(result, "loss/total") for result in (found, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@needs_gloo
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_any_family_train_alike(shared: Shared, family: str) -> None:
    options = ADAPTED | {"backbone": str(shared.root / family)}
    found, alone = shared.result(f"ddp-{family}"), shared.single(f"ddp-{family}", **options)
    assert_same_weights(found, alone, rtol=1e-4, atol=1e-6)
    assert_scored_like_one_process(found, shared.options(f"ddp-{family}", **options))


@needs_gloo
def test_rows_of_several_targets_are_shared_out_exactly(shared: Shared) -> None:
    options = SEVERAL | {"backbone": shared.llama, "max_tokens": 30}
    found, alone = shared.result("ddp-several"), shared.single("ddp-several", **options)
    assert_same_weights(found, alone, rtol=1e-4, atol=1e-6)
    assert found.record["cost"]["samples_per_second"] > 0
    assert_scored_like_one_process(found, shared.options("ddp-several", **options))


@needs_fsdp
def test_two_shards_train_like_one(shared: Shared) -> None:
    options = ADAPTED | {"backbone": shared.llama}
    found, alone = shared.result("fsdp"), shared.single("fsdp", **options)
    assert alone.path.name == found.path.name
    assert_same_weights(found, alone, rtol=1e-4, atol=1e-6)
    assert any("lora_" in name for name in weights(found))
    assert not any("base_layer" in name for name in weights(found))  # frozen, from its source
    shown = [np.fromfile(result.path / ITEM_VECTORS, dtype="<f4") for result in (found, alone)]
    assert np.allclose(*shown, rtol=2e-4, atol=1e-5)  # tokens put together from shards
    assert_scored_like_one_process(found, shared.options("fsdp", **options))
    tiny, alone = shared.result("fsdp-tiny"), shared.single("ddp", **STILL)
    assert_same_weights(tiny, alone, rtol=1e-4, atol=1e-6)
    assert_scored_like_one_process(tiny, shared.options("fsdp-tiny", **STILL))


@needs_fsdp
def test_half_precision_shards_train_like_copies(shared: Shared) -> None:
    options = HALF | {"backbone": shared.llama}
    found, copies = shared.result("fsdp-half"), shared.result("ddp-half")
    assert_same_weights(found, copies, rtol=1e-4, atol=1e-6)
    assert found.record["test"] == copies.record["test"]
    assert_scored_like_one_process(found, shared.options("fsdp-half", **options))


@needs_gloo
@pytest.mark.parametrize(
    ("whole", "killed"),
    [("whole", "killed"), pytest.param("fsdp-whole", "fsdp-killed", marks=needs_fsdp)],
)
def test_a_kill_changes_nothing(shared: Shared, whole: str, killed: str) -> None:
    first, second = shared.result(whole), shared.result(killed)
    assert first.record["epochs"] == 3
    assert_same_weights(first, second, rtol=0, atol=0)
    for key in ("test", "valid", "best_epoch", "epochs"):
        assert first.record[key] == second.record[key]
    assert tables(first) == tables(second)
    histories = [
        torch.load(result.path / "last.pt", weights_only=True)["history"]
        for result in (first, second)
    ]
    assert histories[0] == histories[1]
    if "fsdp" in whole:
        assert [path.name for path in (second.path / "last").iterdir()] == ["2"]
        assert "model" not in torch.load(second.path / "last.pt", weights_only=True)


@needs_gloo
def test_processes_drop_out_different_things(shared: Shared) -> None:
    """The same dropout in both would make the copies' random states alike."""
    state = torch.load(shared.result("whole").path / "last.pt", weights_only=True)
    (other,) = state["random_of_others"]
    assert not torch.equal(state["random"]["torch"], other["torch"])


@needs_gloo
def test_another_number_of_processes_cannot_resume(shared: Shared) -> None:
    options = shared.options("killed-copy", **LIVELY, resume=True)
    with pytest.raises(RunError, match=r"written by 2 processes \(parallel=ddp\) .* by 1 \(para"):
        run("HeLLM", "tiny", **options)


@needs_gloo
def test_the_first_process_trains_stages_and_writes(shared: Shared) -> None:
    stages = shared.result("ddp").stages
    assert [stage.record["model"] for stage in stages] == ["HeLLMPre", "SASRec"]
    assert {stage.record["cost"]["processes"] for stage in stages} == {1}
    folders = sum(1 for _ in shared.root.glob("*/tiny/HeLLMPre/*/metrics.json"))
    copies = len(list(shared.root.glob("*-single"))) + len(list(shared.root.glob("*-copy")))
    assert shared.log.count("HeLLMPre epoch 1: ") == folders - copies
    assert "HeLLMPre runs in one process while the others wait." in shared.log
    written = json.loads((shared.root / "written-1.json").read_text())
    ours = [path for path in written if str(shared.root) in path]
    assert all("/last/" in path and "fsdp" in path for path in ours)
    assert any(
        "best.pt" in path for path in json.loads((shared.root / "written-0.json").read_text())
    )


@needs_gloo
def test_the_command_line_speaks_once(shared: Shared) -> None:
    assert shared.log.count("Test, mask_history=seen") == 1
    (path,) = (shared.root / "cli/tiny/SASRec").iterdir()
    assert load_run(path).record["epochs"] == 1


# How processes end --------------------------------------------------------------------------------

MISTAKE = """
import sys
from recbole_hellm.cli.commands import run
from recbole_hellm.cli.main import main
from recbole_hellm.errors import RunError
from recbole_hellm.training.distributed import current

def callback(options, overrides):
    if current().rank in overrides["ranks"]:
        raise {"RunError": RunError, "KeyError": KeyError}[overrides["error"]]("the disk is full")
    while True:
        current().gather(1)

run.command.callback = callback
sys.exit(main(sys.argv[1:]))
"""


@needs_gloo
@pytest.mark.parametrize(
    ("ranks", "error", "codes", "told"),
    [
        ([0], "RunError", [2, 2], ["the disk is full", "Process 0 of this run has ended"]),
        ([1], "RunError", [2, 2], ["Process 1 of this run has ended", "the disk is full"]),
        ([0, 1], "RunError", [2, 2], ["the disk is full", ""]),
        ([1], "KeyError", [2, 1], ["Process 1 of this run has ended", "KeyError: 'the disk is f"]),
    ],
)
def test_an_error_ends_all(
    tmp_path: Path, ranks: list[int], error: str, codes: list[int], told: list[str]
) -> None:
    script = tmp_path / "mistake.py"
    script.write_text(textwrap.dedent(MISTAKE))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    started = time.perf_counter()
    running = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, str(script), f"--ranks={ranks}", f"--error={error}"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**place, RANK=str(rank)),
        )
        for rank in (0, 1)
    ]
    ends = [process.communicate(timeout=90)[1] for process in running]
    assert time.perf_counter() - started < 60
    assert [process.returncode for process in running] == codes, ends
    for end, sentence in zip(ends, told, strict=True):
        own = [line for line in end.splitlines() if "recbole-hellm: " in line or "Error" in line]
        if sentence:
            assert sentence in own[-1]
            assert ("Traceback" in end) == ("KeyError" in sentence)
        else:
            assert not own


# One process --------------------------------------------------------------------------------------


def test_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group() as processes:
        assert processes == current() == Processes(0, 1, None)
        assert (processes.gather(3), processes.broadcast("x"), processes.first) == ([3], "x", True)
        processes.barrier()
        assert not dist.is_initialized()


def test_an_incomplete_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="WORLD_SIZE=2 is set without RANK, MASTER_ADDR"),
        process_group(),
    ):
        pass
    assert current().size == 1


def test_what_is_done_alone_is_done_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_hellm.training import distributed

    several = Processes(1, 3)
    monkeypatch.setattr(distributed, "_current", several)
    with alone():
        assert current() == Processes()
    assert current() is several


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_an_evaluation_is_divided_without_a_trace(
    make_parts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Processes one after the other, each handed what all of them give."""
    config, dataset, parts = make_parts(
        "BPR", eval_users=8, save_topk=3, metrics=["NDCG", "GiniIndex"]
    )
    evaluator = Evaluator(config, dataset, {"valid": parts[1], "test": parts[2]})
    model = build_model(config, parts[0])
    whole = evaluator.evaluate(model, "test", MASKINGS)
    given: list[Any] = []
    calls: list[int] = []
    score = model.full_sort_predict

    class One(Processes):
        def gather(self, value: Any) -> list[Any]:
            given.append(value)
            return given if len(given) == size else [value]

    for rank in range(size):
        from recbole_hellm.evaluation import evaluator as module

        monkeypatch.setattr(module, "current", lambda rank=rank: One(rank, size))
        calls.append(0)

        def counted(rows: Any) -> Any:
            calls[-1] += 1
            return score(rows)

        monkeypatch.setattr(model, "full_sort_predict", counted)
        try:
            found = evaluator.evaluate(model, "test", MASKINGS)
        except ValueError:
            assert size > 5  # this one had no chunk, and only the last one is handed the others'
    assert calls == [-(-5 // size)] * size  # all make as many passes
    assert found.metrics == whole.metrics
    assert np.array_equal(found.topk, whole.topk)
    for masking in MASKINGS:
        for name in ("users", "higher", "tied", "candidates"):
            left, right = (getattr(part.ranks[masking], name) for part in (found, whole))
            assert left.tolist() == right.tolist()
