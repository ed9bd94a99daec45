from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm import registry
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.yaml_files import packaged, parse_yaml, read_yaml
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.models.general.hellm_pre import HeLLMPreSettings
from recbole_hellm.reporting.tables import comparison, model_list, model_settings
from recbole_hellm.runs.results import RunResult


def result(
    model: str, value: float, stages: tuple[RunResult, ...] = (), **fields: Any
) -> RunResult:
    metrics = {"recall@10": value, "ndcg@10": value / 2}
    record = {
        "model": model,
        "dataset": "tiny",
        "split": "abc" * 20,
        "candidates": "def" * 20,
        "masking": "seen",
        "users": 36,
        "items": 30,
        "best_epoch": 4,
        "cost": {"train_seconds": 12.3},
        "test": {name: dict(metrics) for name in ("seen", "train", "none")},
    }
    return RunResult(Path("runs") / model, record | fields, stages)


def test_one_row_a_run_with_stages_before_their_model() -> None:
    stage = result("SASRec", 0.25)
    table = comparison([result("Pop", 0.0125), result("HeLLM", 0.5, (stage,)), stage])
    lines = table.splitlines()
    assert lines[0] == "Dataset tiny: 36 test users, 30 candidate items, split abcabcabcabc"
    first = lines.index("Test, mask_history=seen")
    assert lines[first + 1].split() == ["model", "recall@10", "ndcg@10", "epoch", "train", "s"]
    assert [line.split() for line in lines[first + 3 : first + 6]] == [
        ["Pop", "0.0125", "0.0063", "4", "12"],
        ["SASRec", "0.2500", "0.1250", "4", "12"],
        ["HeLLM", "0.5000", "0.2500", "4", "12"],
    ]
    assert "Test, mask_history=none (same checkpoint)" in lines
    assert "Test, mask_history=train (same checkpoint)" in lines
    assert lines[-3:] == ["  Pop: runs/Pop", "  SASRec: runs/SASRec", "  HeLLM: runs/HeLLM"]


def test_other_protocols_are_refused_and_told_in_heads() -> None:
    test = {"targets": 90, "unknown_item_targets": 2}
    test |= {"unknown_user_interactions": 3, "unknown_users": 1}
    held = {"held_out": {"rows": "user", "test": test}}
    temporal = {"protocol": {"split": "temporal", "split_points": [0.8, 0.9]}} | held
    with pytest.raises(
        RunError, match=r"differ in protocol .* has the default, .*B has split=temp"
    ):
        comparison([result("A", 0.25), result("B", 0.25, **temporal)])
    other = {"protocol": {"split": "temporal", "split_points": [0.7, 0.9]}} | held
    with pytest.raises(RunError, match="differ in protocol"):
        comparison([result("A", 0.25, **other), result("B", 0.25, **temporal)])
    table = comparison([result("A", 0.25, **temporal), result("B", 0.25, **temporal)])
    assert table.startswith("Dataset tiny: 36 test users, 30 candidate items, 90 targets, 2 of th")
    assert "\nTest, mask_history=seen, split=temporal, split_points=[0.8, 0.9]\n" in table
    sampled = {"protocol": {"candidates": "uniform-100", "split_seed": 2024}} | held
    with pytest.raises(RunError, match="differ in protocol"):
        comparison([result("A", 0.25), result("B", 0.25, **sampled)])
    table = comparison([result("A", 0.25, **sampled)])
    heads = [line for line in table.splitlines() if line.startswith("Test, ")]
    assert len(heads) == 3
    assert all("SAMPLED METRICS, for comparison with old papers only" in head for head in heads)


def test_the_runs_own_masking_comes_first_and_common_metrics_only() -> None:
    other = result("B", 0.5, masking="none")
    other.record["test"]["none"]["itemcoverage@10"] = 0.9
    table = comparison([result("A", 0.25, masking="none"), other])
    assert table.index("mask_history=none") < table.index("mask_history=seen")
    assert "itemcoverage" not in table


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "Beauty"),
        ("split", "other"),
        ("candidates", "other"),
        ("masking", "train"),
        ("users", 35),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(key: str, value: Any) -> None:
    runs = [result("A", 0.25), result("C", 0.25), result("B", 0.5, **{key: value})]
    own = runs[0].record[key]
    with pytest.raises(RunError) as caught:
        comparison(runs)
    assert str(caught.value) == (
        f"These runs differ in {key} and cannot be compared (runs/A has {own}, runs/B has {value});"
        " leave one out."
    )
    with pytest.raises(RunError, match=f"differ in {key}"):
        comparison([result("A", 0.25, (result("B", 0.5, **{key: value}),))])


def test_models_are_listed() -> None:
    lines = model_list().splitlines()
    rows = {cells[0]: cells for cells in (re.split(r"  +", line) for line in lines[2:26])}
    assert rows["LightGCN"][1:] == ["general", "He et al., SIGIR 2020", "graph"]
    assert rows["SASRec"][1:] == ["sequential", "Kang and McAuley, ICDM 2018", "histories"]
    assert rows["HeLLM"][1:] == [
        "LLM",
        "Guo et al., HeLLM, section 3.5",
        "graph, modalities, histories",
        "HeLLMPre, SASRec",
    ]
    collm = ["LLM", "Zhang et al., arXiv 2023", "graph, histories", "LightGCN", "HeLLM"]
    assert rows["CoLLM"][1:] == collm
    assert rows["LLaRA"][3:] == ["histories", "SASRec", "HeLLM"]
    assert rows["HeLLMPre-wo-I2I"][3:] == ["graph", "HeLLMPre"]
    assert rows["HeLLM-wo-Seq_ID"][4:] == ["HeLLMPre", "HeLLM"]
    assert set(rows) == {*registry.OWN_MODELS, *registry.COMPARED_MODELS}


def test_models_are_listed_with_their_defaults() -> None:
    text = model_list()
    defaults = text[text.index("\nSettings of each") : text.index("\nRecBole's")]
    assert max(len(line) for line in defaults.splitlines()[2:]) <= 100
    joined = re.sub(r"\n +", " ", defaults)
    for model in ("SASRec", "HeLLMPre"):
        settings = packaged("model", f"{model}.yaml")
        if model == "HeLLMPre":
            settings = HeLLMPreSettings().to_dict() | settings
        (line,) = re.findall(rf"(?<= ){model}: (.*?)(?= \w[\w-]*: |$)", joined, re.MULTILINE)
        assert parse_yaml("{" + line.replace("=", ": ") + "}") == settings
    assert " lora_targets=[gate_proj, up_proj, down_proj]," in joined
    assert " item_inputs=[graph, sequence]," in joined
    tiny = "backbone tiny: learning_rate_min=1.0e-05, weight_decay=0.01, "
    assert tiny in joined
    assert "backbone pretrained: learning_rate=0.0003," in joined
    assert "  LLaRA: HeLLM with graph_model=~, item_inputs=[sequence], prefix=none\n" in defaults
    assert "  HeLLMPre-wo-U2U: HeLLMPre with use_u2u=False\n" in defaults


def test_recboles_models_are_listed_by_family() -> None:
    listed = re.sub(r"\n {3,}", " ", model_list().partition("\nRecBole's models")[2])
    families = dict(line.strip().split(": ") for line in listed.splitlines()[1:])
    kinds = ["general", "sequential", "context-aware", "knowledge-aware"]
    assert list(families) == kinds
    for kind, name in zip(kinds, ("LightGCN", "BERT4Rec", "FM", "CKE"), strict=True):
        assert name in families[kind].split(", ")
    assert sum(len(names.split(", ")) for names in families.values()) > 80


@pytest.mark.parametrize("model", ["HeLLM", "CoLLM", "HeLLMPre-wo-CL", "SASRec", "LightGCN"])
def test_the_settings_of_a_model_are_a_settings_file(model: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(model_settings(model, "Toys"))
    given = read_yaml(tmp_path / "all.yaml")
    plain = HellmConfig(model, "Toys")
    assert {*plain.model_settings(), *RunSettings.keys()} == set(given)
    repeated = HellmConfig(model, "Toys", {}, [tmp_path / "all.yaml"])
    # Typed, since `load_col` and betas may be spelt in two ways.
    assert repeated.model_settings() == plain.model_settings()
    for key in RunSettings.keys():  # noqa: SIM118
        assert repeated[key] == plain[key], key


def test_settings_are_those_of_the_dataset() -> None:
    toys = model_settings("HeLLMPre", "Toys").splitlines()
    assert toys[0] == "# HeLLMPre on Toys: the model and its training"
    assert "alpha_u2u: 0.03" in toys
    assert "alpha_u2u: 0.9" in model_settings("HeLLMPre", "Beauty").splitlines()
    assert "train_batch_size: 512" in model_settings("HeLLMPre").splitlines()  # the sample's
    with pytest.raises(ConfigError, match="Unknown model 'Foo'"):
        model_settings("Foo")
