"""Copies and shards in two processes train like one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import (
    ADAPTED,
    EMA,
    FAMILIES,
    HALF,
    MASKINGS,
    SEVERAL,
    STILL,
    Shared,
    assert_same_weights,
    needs_fsdp,
    needs_gloo,
    one_thread,
    tables,
    weights,
)

from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation.evaluator import Evaluator
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.opening import build_model
from recbole_hellm.runs.results import RunResult
from recbole_hellm.tracking.curves import read_curves
from recbole_hellm.tracking.projector import ITEM_VECTORS
from recbole_hellm.training import parallel
from recbole_hellm.training.distributed import Processes
from recbole_hellm.training.parallel import DDP, FSDP, SingleProcess, distribute


def scalars(result: RunResult, tag: str) -> list[float]:
    return [value for _, value in read_curves(result.path)[tag]]


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
    written = tables(result)
    for masking in MASKINGS:
        for name in ("higher", "tied", "candidates"):
            assert (
                getattr(test.ranks[masking], name).tolist()
                == (written[f"ranks-{masking}.parquet"][name])
            )
    items = dataset.id2token(dataset.iid_field, test.topk.ravel())
    assert list(items) == written["topk-seen.parquet"]["item"]


@needs_gloo
@pytest.mark.parametrize(
    ("folder", "more"), [("ddp", {}), ("ddp-cut", {"max_tokens": 6}), ("ddp-ema", EMA)]
)
def test_two_copies_train_like_one(shared: Shared, folder: str, more: dict[str, Any]) -> None:
    copies = shared.result(folder)
    assert copies.record["cost"]["processes"] == 2
    alone = shared.single(folder, **STILL, **more)
    assert alone.record["cost"]["processes"] == 1
    assert alone.path.name == copies.path.name  # the same run, however it is carried out
    assert_same_weights(copies, alone, rtol=1e-4, atol=1e-6)
    assert copies.record["best_epoch"] == alone.record["best_epoch"]
    assert_scored_like_one_process(copies, shared.options(folder, **STILL, **more))
    losses = [scalars(result, "loss/total") for result in (copies, alone)]
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


@pytest.mark.parametrize(
    ("size", "setting", "kind"),
    [(1, "fsdp", SingleProcess), (2, "auto", DDP), (2, "ddp", DDP), (3, "fsdp", FSDP)],
)
def test_the_kind_follows_processes_and_setting(
    make_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    setting: str,
    kind: type[SingleProcess],
) -> None:
    monkeypatch.setattr(parallel, "current", lambda: Processes(0, size))
    config = make_config("BPR", parallel=setting)
    assert parallel.parallel_kind(config) is kind
    config["device"] = torch.device("meta")
    expected = "cpu" if kind is FSDP else "meta"  # a full model may not fit on the device
    assert parallel.building_device(config).type == expected


@pytest.mark.parametrize(
    ("model", "unused"), [("HeLLM", "none"), ("BPR", "same"), ("my:Model", "any")]
)
def test_parameters_without_use_are_looked_for_where_they_are_not_known(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, model: str, unused: str
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(parallel, "current", lambda: Processes(0, 2))
    monkeypatch.setattr(parallel.DDP, "__init__", lambda self, *given: told.append(given[2:]))
    config = make_config("BPR" if ":" in model else model)
    if ":" in model:
        config.entry = dataclasses.replace(config.entry, outside=True)
    distribute(config, torch.nn.Linear(1, 1))
    assert told == [(unused,) if unused != "none" else ()]


def test_a_model_without_weights_is_not_copied(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    several = Processes(1, 2)
    monkeypatch.setattr(parallel, "current", lambda: several)
    shared = distribute(make_config("Ensemble"), torch.nn.Module())
    assert type(shared) is SingleProcess
    assert shared.processes is several


def test_small_models_are_not_sharded(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "current", lambda: Processes(0, 2))
    with pytest.raises(ConfigError, match="shards language models, and BPR is none; use --par"):
        parallel.check_shareable(make_config("BPR", parallel="fsdp"), torch.nn.Module())


def test_only_shards_need_blocks(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutBlocks(torch.nn.Module):
        @property
        def blocks(self) -> Any:
            raise ConfigError("This model has no blocks; use parallel=ddp.")

    monkeypatch.setattr(parallel, "current", lambda: Processes(0, 2))
    parallel.check_shareable(make_config("BPR"), WithoutBlocks())
    with pytest.raises(ConfigError, match="has no blocks"):
        parallel.check_shareable(make_config("BPR", parallel="fsdp"), WithoutBlocks())


def test_shards_are_not_averaged(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "current", lambda: Processes(0, 2))
    parallel.check_shareable(make_config("BPR", weight_averaging="ema"), torch.nn.Module())
    config = make_config("BPR", weight_averaging="ema", parallel="fsdp")
    with pytest.raises(ConfigError, match="parallel=fsdp leaves each process a shard; use --para"):
        parallel.check_shareable(config, torch.nn.Module())


def test_one_process_holds_the_full_state(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).backward()
    optimizer.step()
    single, run = SingleProcess(model, Processes()), RunDirectory(tmp_path)
    state = single.save(run, 0, {"optimizer": optimizer})
    other = torch.nn.Linear(2, 1)
    again = torch.optim.Adam(other.parameters())
    SingleProcess(other, Processes()).load(run, state, {"optimizer": again})
    for name, value in single.weights().items():
        assert torch.equal(other.state_dict()[name], value)
    assert again.state_dict()["state"][0]["step"] == 1
