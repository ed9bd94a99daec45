from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_hellm.cli.main import main
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.runs.dry_run import describe_needs
from recbole_hellm.runs.opening import build_model


def figures(text: str) -> dict[str, str]:
    rows = [line.split("  ", 1) for line in text.splitlines()[1:]]
    return {name.strip(): value.strip() for name, value in rows}


@pytest.mark.parametrize("first", [False, True], ids=["", "first"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"targets": "last"},
        {"targets": "last", "prefix": "none", "prompt": "alpaca"},
        {"train_users": 0.4},
        {"train_users": 0.4, "targets": "last"},
        {"train_users": 0.4, "targets": "last", "prefix": "none", "prompt": "alpaca"},
    ],
    ids=["every", "last", "several", "some-every", "some-last", "some-several"],
)
def test_counts_are_those_of_the_run(
    make_config: Callable[..., HellmConfig],
    small_model: dict[str, Any],
    options: dict[str, Any],
    first: bool,
) -> None:
    config = make_config("HeLLM", **small_model, **options, first_item_target=first)
    needs = figures(describe_needs(config))
    dataset = create_dataset(config)
    parts = dataset.build()
    model = build_model(config, parts[0])
    loader = training_loader(config, dataset, parts, model)
    batches = list(loader)
    samples = sum(int(model.target_counts(batch).sum()) for batch in batches)
    tokens = sum(model.pass_tokens(model.sample_tokens(batch).numpy())[0] for batch in batches)
    parameters = sum(p.numel() for p in model.parameters())
    assert needs["samples"].startswith(f"{samples:,} an epoch, 2 epochs at most")
    assert needs["steps"] == f"{len(loader):,} an epoch"
    assert needs["tokens"].startswith(f"{tokens:,} an epoch")
    assert needs["parameters"].startswith(f"{parameters:,}, of which")
    assert needs["graph stage"] == "HeLLMPre: to be trained"
    assert not Path(config["runs_dir"]).exists()


def test_a_token_budget_lowers_the_memory(
    make_config: Callable[..., HellmConfig], small_model: dict[str, Any]
) -> None:
    options = small_model | {"targets": "last", "train_batch_size": 64}
    whole = figures(describe_needs(make_config("HeLLM", **options)))["memory"]
    parts = figures(describe_needs(make_config("HeLLM", **options, max_tokens=12)))["memory"]
    assert "(2 rows of 6 tokens" in parts
    assert "(2 rows of 6 tokens" not in whole


def test_the_command_line_tells_of_each_model_and_trains_none(
    quick: dict[str, Any], small_model: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {k: v for k, v in small_model.items() if k.startswith("SASRec.")}
    arguments = [f"--{key}={value}" for key, value in {**quick, **keys}.items()]
    assert main(["run", "--model=SASRec", "--dataset=tiny", *arguments, "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "SASRec on tiny would need (nothing was trained)" in output
    assert "not estimated" in output
    assert not Path(quick["runs_dir"]).exists()
    assert torch.is_grad_enabled()


def test_averages_of_weights_are_counted(
    make_config: Callable[..., HellmConfig], small_model: dict[str, Any]
) -> None:
    options = {"weight_averaging": "last", "averaged_epochs": 40}
    plain, averaged = (
        figures(describe_needs(make_config("HeLLM", **small_model, **more)))["memory"]
        for more in ({}, options)
    )
    assert ", gradients and optimiser" in plain
    assert ", gradients, averages and optimiser" in averaged
    sizes = [float(text.split("optimiser ")[1].split()[0]) for text in (plain, averaged)]
    assert sizes[1] == pytest.approx(sizes[0] * 43 / 3, abs=1)


@pytest.mark.parametrize("first", [False, True])
def test_rows_of_models_without_a_language_model_are_counted(
    make_config: Callable[..., HellmConfig], first: bool
) -> None:
    config = make_config("BSARec", first_item_target=first)
    dataset = create_dataset(config)
    parts = dataset.build()
    loader = training_loader(config, dataset, parts, build_model(config, parts[0]))
    count = sum(len(batch) for batch in loader)
    assert figures(describe_needs(config))["training rows"] == f"{count:,}"


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("model", ["VBPR", "HeLLM"])
def test_features_are_not_encoded(
    model: str,
    make_config: Callable[..., HellmConfig],
    small_model: dict[str, Any],
    tmp_path: Path,
) -> None:
    options = small_model if model == "HeLLM" else {}
    config = make_config(model, **options)
    shutil.copytree(config.dataset_directory, tmp_path / "data/tiny")
    shutil.rmtree(tmp_path / "data/tiny/features", ignore_errors=True)
    titles = "".join(f"i{item:02d}\tlamp\n" for item in range(30))
    (tmp_path / "data/tiny/tiny.item").write_text(f"item_id:token\ttitle:token_seq\n{titles}")
    before = files(tmp_path)
    needs = figures(describe_needs(make_config(model, **options, data_path=str(tmp_path / "data"))))
    assert needs["features"] == "item texts are to be encoded (text_encoder=auto)"
    assert needs["run directory"] == "known when the features are there"
    assert ("memory" in needs) == (model == "HeLLM")  # whose network reads its stages alone
    assert files(tmp_path) == before


@pytest.mark.parametrize("dataset", ["sample", "Beauty"])
def test_datasets_are_not_prepared(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model=BPR", f"--dataset={dataset}", f"--data_path={tmp_path}", "--dry_run"]
    assert main(["run", *words]) == 0
    assert f"to be prepared in {tmp_path / dataset}" in capsys.readouterr().out
    assert not files(tmp_path)
    assert (
        main(["run", "--model=BPR", "--dataset=nope", f"--data_path={tmp_path}", "--dry_run"]) == 2
    )
