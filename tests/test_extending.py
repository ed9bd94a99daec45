"""docs/extending.md and own_models.md: their examples, word for word, from a folder outside.

Those of metrics are in test_extending_metrics.py, those of dataset families and item inputs beside
the tests of these.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.runs.results import load_run
from recbole_hellm.tracking.curves import read_curves

Example = Callable[[str], list[list[str]]]
QUICK = ["--show_progress=False", "--threads=1"]


def hellm(arguments: list[str]) -> str:
    """What a command line prints, in a process of its own."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "recbole_hellm", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_of_ones_own(example: Example, tmp_path: Path) -> None:
    run, compare, recommend = example("own_models")
    table = hellm([*run, *QUICK])
    assert any(line.startswith("MeanTaste ") for line in table.splitlines())
    result = load_run(tmp_path / "runs/sample/MeanTaste")
    config = read_yaml(result.path / "config.yaml")
    assert (config["model"], config["model_path"]) == ("MeanTaste", "my_models:MeanTaste")
    # From the file beside the module, and from the command line.
    assert (config["embedding_size"], config["learning_rate"]) == (32, 0.01)
    assert result.record["epochs"] == 3
    recommended = hellm(recommend)
    assert "User U0001" in recommended
    table = hellm([*compare, *QUICK])
    assert "MeanTaste" in table and "my_models:" not in table
    assert len(list((tmp_path / "records/sample/MeanTaste").iterdir())) == 1


def test_a_model_of_ones_own_as_a_stage(example: Example, tmp_path: Path) -> None:
    example("own_models")
    options = [
        "--dataset=sample",
        "--epochs=1",
        "--backbone_hidden_size=16",
        "--item_inputs=[graph]",
    ]
    options += ["--sequence_model=~", "--graph_model=my_models:MeanTaste", "--graph_dim=32"]
    hellm(["run", "--model=HeLLM", *options, *QUICK, "--MeanTaste.epochs=1"])
    result = load_run(tmp_path / "runs/sample/HeLLM")
    (stage,) = result.stages
    assert (stage.record["model"], stage.record["epochs"]) == ("MeanTaste", 1)


def test_a_tracker_of_ones_own(example: Example, tmp_path: Path) -> None:
    (run,) = example("Trackers")
    told = hellm([*run, *QUICK])
    result = load_run(tmp_path / "runs/sample/BPR")
    score = round(result.metrics("valid")["ndcg@10"], 4)
    assert f"sample/BPR/{result.path.name} came to {score}" in told
    rows = [line.split(",") for line in (tmp_path / "runs/curves.csv").read_text().splitlines()]
    curve = {int(row[2]) + 1: float(row[3]) for row in rows if row[1] == "loss/total"}
    assert list(curve) == [1, 2]
    assert dict(read_curves(result.path)["loss/total"]) == pytest.approx(curve, rel=1e-6)


def test_all_of_them_together(example: Example, tmp_path: Path) -> None:
    """A model, a metric, a dataset family and an item input, all from outside the package."""
    prepare, _ = example("Datasets")[:2]
    for name in ("own_models", "own_metrics", "Item inputs of the LLM stage"):
        example(name)
    hellm(prepare)
    shared = ["--dataset=radio-2024", "--topk=[1, 2]", "--text_encoder=tfidf", *QUICK]
    metrics = ["--metrics=[NDCG, my_metrics:Podium]", "--valid_metric=Podium@2"]
    table = hellm(["run", "--model=my_models:MeanTaste", *metrics, *shared])
    assert "podium@2" in table
    assert 0 <= load_run(tmp_path / "runs/radio-2024/MeanTaste").metrics()["podium@2"] <= 1
    tokens = "--item_inputs=[sequence, my_inputs:Popularity]"
    small = ["--graph_model=my_models:MeanTaste", "--graph_dim=32", "--backbone_hidden_size=16"]
    hellm(["run", "--model=HeLLM", tokens, *small, *metrics, *shared, "--epochs=1"])
    result = load_run(tmp_path / "runs/radio-2024/HeLLM")
    assert "podium@2" in result.metrics()
    assert {stage.record["model"] for stage in result.stages} == {"MeanTaste", "SASRec"}
