"""Finished runs that are restored: same metrics, and one sentence for each mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from support.runs import seal_anew
from transformers import LlamaConfig, LlamaModel

from recbole_hellm import load_run
from recbole_hellm.benchmark.records import write_record
from recbole_hellm.benchmark.users import TestUsers
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.errors import HellmError, RunError
from recbole_hellm.runs.identity import run_path
from recbole_hellm.runs.results import RunResult

SCORE = """
import json, sys
from recbole_hellm import load_run
result = load_run(sys.argv[1])
found = result.evaluate("test", *sys.argv[2:])
valid = result.evaluate("valid", *sys.argv[2:])
print(json.dumps([found, valid]))
"""


@pytest.fixture
def llama(tmp_path: Path) -> str:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    LlamaModel(LlamaConfig(**shape, **heads, vocab_size=9)).save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")


def scored_elsewhere(result: RunResult, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of both splits, computed by a process that knows the run's directory alone."""
    command = [sys.executable, "-c", SCORE, str(result.path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    test, valid = json.loads(done.stdout.splitlines()[-1])
    return test, valid


def assert_same(result: RunResult, found: tuple[dict[str, Any], dict[str, Any]]) -> None:
    record = json.loads((result.path / "metrics.json").read_text())
    assert found[0] == record["test"]
    masking = record["masking"]
    assert found[1][masking] == record["valid"][masking]


def test_a_tiny_run_is_restored_without_its_stages(
    train: Callable[..., RunResult], small_model: dict[str, Any], tmp_path: Path
) -> None:
    options = {"topk": [3, 10], "metrics": ["NDCG", "ItemCoverage"], "mask_history": "none"}
    result = train("HeLLM", **small_model, **options, eval_users=7)
    for stage in result.stages:
        shutil.rmtree(stage.path)
    for name in ("best.pt", "last.pt"):
        (result.path / name).unlink()
    moved = tmp_path / "moved"
    shutil.move(result.path, moved)
    restored = load_run(moved)
    assert restored.stages == ()
    assert_same(restored, scored_elsewhere(restored))


@pytest.mark.parametrize("layers", [None, 1])
def test_a_frozen_backbone_with_adapters_is_restored(
    layers: int | None,
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    llama: str,
    tmp_path: Path,
    quick: dict[str, Any],
) -> None:
    options = {"backbone": llama, "prompt": "none", "learning_rate": 0.01}
    result = train("HeLLM", **small_model | options | {"backbone_layers": layers})
    assert len(result.restore().network.backbone.attention_layers) == (layers or 2)
    for stage in result.stages:
        shutil.rmtree(stage.path)
    assert_same(result, scored_elsewhere(result))
    # Everything in another place.
    moved = [tmp_path / "elsewhere", tmp_path / "data"]
    shutil.move(llama, moved[0])
    shutil.copytree(quick["data_path"], moved[1])
    path = result.path / "config.yaml"
    path.write_text(path.read_text().replace(quick["data_path"], str(tmp_path / "nowhere")))
    seal_anew(result)
    assert result.evaluate("test", str(moved[1]), str(moved[0])) == result.record["test"]


@pytest.mark.parametrize("model", ["SASRec", "LightGCN"])
def test_other_models_are_restored_from_their_checkpoint(
    train: Callable[..., RunResult], model: str
) -> None:
    result = train(model, MAX_ITEM_LIST_LENGTH=6)
    assert_same(result, scored_elsewhere(result))


@pytest.mark.parametrize(
    "model",
    [
        *("CoLLM", "LLaRA", "HeLLM-wo-GNN_PEFT", "HeLLMPre", "HeLLMPre-wo-U2U"),
        *("Pop", "ItemKNN", "GRU4Rec", "MultiVAE", "FPMC", "DIN"),
    ],
)
def test_any_run_is_restored(
    train: Callable[..., RunResult],
    small_variant: Callable[[str], dict[str, Any]],
    quick: dict[str, Any],
    model: str,
) -> None:
    sizes = small_variant(model) if model in ("CoLLM", "LLaRA", "HeLLM-wo-GNN_PEFT") else {}
    result = train(model, **sizes | {"epochs": 1, "MAX_ITEM_LIST_LENGTH": 6})
    torch.manual_seed(1)
    reopened = result.reopen()
    assert reopened.evaluate() == result.record["test"]
    assert not reopened.model.training
    # The rebuilt configuration is that of the run; only its stages are not known.
    recorded = json.loads((result.path / "identity.json").read_text())["settings"]
    rebuilt = json.loads(json.dumps(reopened.config.identifying_settings(), default=str))
    assert rebuilt == recorded
    if not sizes:
        assert Path(run_path(reopened.config, reopened.dataset)).name == result.path.name


def test_tuples_from_python_are_restored(train: Callable[..., RunResult]) -> None:
    result = train("Pop", features=("text-toy",), topk=(5, 10), mirrors=("none",))
    assert result.evaluate() == result.record["test"]
    assert result.evaluate(device="cpu") == result.record["test"]


def test_values_that_defaults_no_longer_have_are_the_runs(
    train: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps its sizes and its chunks of users when the packaged files change."""
    result = train("LightGCN", epochs=1)
    from recbole_hellm.config import resolution

    original = resolution.packaged

    def changed(*parts: str) -> dict[str, Any]:
        values = original(*parts)
        if parts == ("model", "LightGCN.yaml"):
            values |= {"embedding_size": 3, "eval_users": 5, "learning_rate": 0.5, "topk": [1]}
        return values

    monkeypatch.setattr(resolution, "packaged", changed)
    assert load_run(result.path).evaluate() == result.record["test"]


def sentence(error: pytest.ExceptionInfo[HellmError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_other_data_are_refused(
    train: Callable[..., RunResult], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    result = train("BPR")
    other = interactions[interactions["user_id"] != "u39"]
    make_dataset(tmp_path / "other/tiny", other)
    with pytest.raises(RunError, match="holds other interactions than those") as error:
        result.restore(data_path=tmp_path / "other")
    sentence(error)
    with pytest.raises(RunError, match=r"dataset of .* is not in .*nowhere/tiny; give .*tiny/ wi"):
        result.restore(data_path=tmp_path / "nowhere")


def test_reading_a_run_makes_no_data(
    train: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train("BPR", epochs=1)
    path = result.path / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(settings | {"data_path": "dataset", "dataset": "sample"}))
    seal_anew(result)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match=r"is not in dataset/tiny; give the folder that holds tiny/"):
        result.restore()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["best.pt", "identity.json", "config.yaml", "metrics.json"])
def test_a_file_of_another_run_is_refused(train: Callable[..., RunResult], name: str) -> None:
    result, other = train("BPR", epochs=1), train("BPR", epochs=1, seed=7)
    shutil.copy(other.path / name, result.path / name)
    with pytest.raises(RunError, match=f"{result.path}.*is damaged .its checksum differs") as error:
        load_run(result.path).restore()
    sentence(error)
    assert train("BPR", epochs=1, force=True).record["test"] == result.record["test"]


@pytest.mark.parametrize(
    "name", ["item_head.safetensors", "settings.json", "items.json", "backbone/config.json"]
)
def test_a_changed_bit_of_a_fine_tuned_model_is_told(
    train: Callable[..., RunResult], small_model: dict[str, Any], name: str
) -> None:
    result = train("HeLLM", **small_model, epochs=1)
    path = result.path / "model" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=f"{name} is damaged .its checksum differs"):
        result.restore()
    content[-3] ^= 1
    path.write_bytes(content)
    (result.path / "model/README.md").write_text("My own words.")
    (result.path / "model/adapter_config.json").write_text("{}")
    with pytest.raises(RunError, match=r"adapter_config.json is not listed in metrics.json"):
        result.restore()


def test_other_features_are_refused_where_they_are_read(
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    interactions: pd.DataFrame,
    make_dataset: Any,
    tmp_path: Path,
) -> None:
    from recbole_hellm.data.features.store import save_features

    result = train("HeLLM", **small_model, epochs=1)
    make_dataset(tmp_path / "other/tiny", interactions)
    items = sorted(interactions["item_id"].unique())
    save_features(tmp_path / "other/tiny", "text", "toy", items, torch.eye(30).numpy())
    with pytest.raises(RunError, match="holds other item features than those"):
        result.stages[0].restore(data_path=tmp_path / "other")
    shutil.rmtree(tmp_path / "other/tiny/features")
    assert result.evaluate(data_path=tmp_path / "other") == result.record["test"]


def test_artefacts_of_other_items_are_refused(
    train: Callable[..., RunResult], small_model: dict[str, Any]
) -> None:
    result = train("HeLLM", **small_model, epochs=1)
    path = result.path / "model/items.json"
    path.write_text(path.read_text().replace("i07", "i77"))
    seal_anew(result)
    with pytest.raises(RunError, match="was trained on other items than the dataset's") as error:
        result.restore()
    sentence(error)


def test_artefacts_in_another_order_are_put_in_order(
    train: Callable[..., RunResult], small_model: dict[str, Any]
) -> None:
    from safetensors.torch import load_file, save_file

    result = train("HeLLM", **small_model, epochs=1)
    folder = result.path / "model"
    items = json.loads((folder / "items.json").read_text())
    (folder / "items.json").write_text(json.dumps(items[::-1]))
    held = load_file(folder / "item_tokens.safetensors")
    by_item = {name for name in held if "tables" in name or "vectors" in name}
    held |= {name: held[name].flip(0).contiguous() for name in by_item}
    save_file(held, folder / "item_tokens.safetensors")
    seal_anew(result)
    assert result.evaluate() == result.record["test"]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("model/item_head.safetensors", "item_head.safetensors is damaged .it is missing"),
        ("model", "model/backbone/config.json is damaged .it is missing"),
        ("config.yaml", "config.yaml is damaged .it is missing"),
        ("identity.json", "identity.json is damaged .it is missing"),
    ],
)
def test_missing_files_of_a_fine_tuned_run_are_told(
    train: Callable[..., RunResult], small_model: dict[str, Any], name: str, match: str
) -> None:
    result = train("HeLLM", **small_model, epochs=1)
    path = result.path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunError, match=match):
        result.restore()
    metrics = result.path / "metrics.json"  # as earlier versions wrote it
    metrics.write_text(json.dumps(result.record))
    with pytest.raises(RunError, match=r"is missing|cannot be read|has no folder 'model'"):
        result.restore()


def test_checkpoints_that_cannot_be_used_are_told(train: Callable[..., RunResult]) -> None:
    result, other = train("BPR"), train("BPR", embedding_size=8)
    best = result.path / "best.pt"
    for damage, told in (
        (lambda: shutil.copy(other.path / "best.pt", best), "does not hold the weights of this mo"),
        (lambda: best.write_bytes(best.read_bytes()[:1000]), r"best.pt is damaged"),
    ):
        damage()
        with pytest.raises(RunError, match=r"best.pt is damaged .its checksum differs"):
            result.restore()
        seal_anew(result)
        with pytest.raises(RunError, match=told) as error:
            result.restore()
        sentence(error)
    best.unlink()
    with pytest.raises(RunError, match=r"best.pt is damaged \(it is missing"):
        result.restore()


def test_a_kept_record_has_no_model(
    train: Callable[..., RunResult], quick: dict[str, Any], tmp_path: Path
) -> None:
    test_users = TestUsers.open(HellmConfig("BPR", "tiny", quick))
    record = write_record(train("BPR", epochs=1), tmp_path / "records", test_users)
    with pytest.raises(
        RunError, match=f"^{record.path} is a record, which holds no model"
    ) as error:
        load_run(record.path).restore()
    sentence(error)


def test_settings_that_this_version_lacks_are_told(train: Callable[..., RunResult]) -> None:
    result = train("BPR")
    path = result.path / "identity.json"
    content = json.loads(path.read_text())
    content["settings"]["gone"] = 1
    path.write_text(json.dumps(content))
    seal_anew(result)
    with pytest.raises(RunError, match=r"recbole-hellm 0.1.0 and does not fit .*'gone'") as error:
        result.restore()
    sentence(error)
    del content["settings"]["gone"], content["settings"]["learning_rate"]
    path.write_text(json.dumps(content))
    settings = yaml.safe_load((result.path / "config.yaml").read_text())
    (result.path / "config.yaml").write_text(yaml.safe_dump(settings | {"learning_rate": 0.3}))
    seal_anew(result)
    with pytest.raises(RunError, match=r"where learning_rate was None rather than 0.3; use that"):
        result.restore()


def test_a_run_with_a_gguf_file_is_restored_wherever_the_file_is(
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    from support.gguf_files import small_llama, write_gguf

    monkeypatch.setenv("HELLM_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "small.gguf", small_llama())
    options = {"backbone": str(file), "prompt": "none", "backbone_layers": 2}
    result = train("HeLLM", **small_model | options)
    metrics = result.evaluate("test")
    assert metrics == result.record["test"]
    moved = shutil.move(file, tmp_path / "moved.gguf")
    assert result.evaluate("test") == metrics  # from the cache
    (folder,) = (tmp_path / "cache/backbones").iterdir()
    assert result.evaluate("test", backbone=str(folder)) == metrics
    write_gguf(file, small_llama(1))  # another one in its place
    assert result.evaluate("test") == metrics
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(HellmError) as error:
        result.restore()
    assert "give its place as `backbone`" in sentence(error)
    assert result.evaluate("test", backbone=str(moved)) == metrics
    other = write_gguf(tmp_path / "other.gguf", small_llama(1))
    with pytest.raises(HellmError) as error:
        result.restore(backbone=str(other))
    assert "holds other weights than the backbone that" in sentence(error)
