"""docs/own_metrics.md: the example, word for word, from a folder outside the package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.benchmark import comparing
from recbole_hellm.cli.main import main
from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.runs.results import load_run
from recbole_hellm.runs.running import execute
from recbole_hellm.tracking.curves import read_curves

REPOSITORY = Path(__file__).resolve().parents[1]
QUICK = [f"--data_path={REPOSITORY / 'dataset'}", "--epochs=2", "--show_progress=False"]


@pytest.fixture
def commands(example: Callable[[str], list[list[str]]]) -> list[list[str]]:
    """Arguments of the page's commands, in a folder with the example's module."""
    return example("own_metrics")


@pytest.fixture
def folder(commands: list[list[str]], tmp_path: Path) -> Path:
    """That folder."""
    return tmp_path


def test_the_example_runs_from_its_page(folder: Path, commands: list[list[str]]) -> None:
    arguments, _ = commands
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "recbole_hellm", *arguments, *QUICK, "--save_topk=20"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = load_run(folder / "runs/sample/BPR")
    values = run.metrics()
    keys = [f"{name}@{k}" for name in ("recall", "ndcg", "podium", "serendipity") for k in (10, 20)]
    assert list(values) == keys
    ranks = pd.read_parquet(run.path / "ranks-seen.parquet")
    assert (ranks["tied"] == 0).all()
    place = ranks["higher"].to_numpy() + 1
    assert values["podium@10"] == pytest.approx(np.where(place <= 3, 1 / place, 0).mean())
    # Printed, recorded, chosen by, and in TensorBoard.
    header = next(line for line in done.stdout.splitlines() if line.startswith("model"))
    assert header.split()[1:9] == keys
    assert f"{values['serendipity@10']:.4f}" in done.stdout
    config = read_yaml(run.path / "config.yaml")
    assert config["metrics"][2:] == ["my_metrics:Podium", "my_metrics:Serendipity"]
    assert (config["valid_metric"], config["valid_metric_bigger"]) == ("Serendipity@10", True)
    curves = read_curves(run.path)
    by_epoch = dict(curves["valid/serendipity@10"])
    assert max(by_epoch, key=by_epoch.__getitem__) == run.record["best_epoch"]
    assert curves["best/test-serendipity@10"][0][1] == pytest.approx(values["serendipity@10"])
    assert curves["test-none/podium@20"][0][1] == pytest.approx(
        run.metrics("test", "none")["podium@20"]
    )
    # The mean over hits, from the lists that were written.
    lists = pd.read_parquet(run.path / "topk-seen.parquet")
    hits = lists.merge(ranks, on=["user", "item"]).query("place <= 20")
    assert len(hits) == (place <= 20).sum() > 0
    again = run.evaluate("test", REPOSITORY / "dataset")  # the module is found again
    assert again["seen"] == values


def test_models_are_compared_by_the_examples_metrics(
    folder: Path,
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def carry_out(jobs: Iterable[Any], parallel: int, on_done: Any) -> None:
        for job in jobs:
            on_done(job, execute(job.config()))

    monkeypatch.setattr(comparing, "carry_out", carry_out)
    _, arguments = commands
    assert main([*arguments, *QUICK, "--output=tables"]) == 0
    text = capsys.readouterr().out
    assert "podium@10" in text
    assert "serendipity, bits@20" in text
    tests = pd.read_csv(folder / "tables/Pop-BPR-sample-tests-BPR.csv").set_index("metric")
    assert {"podium@10", "serendipity@20"} <= set(tests.index)
    assert 0 <= tests.loc["serendipity@10", "p_t"] <= 1
    run = load_run(folder / "runs/sample/BPR")
    assert tests.loc["serendipity@10", "mean_a"] == pytest.approx(run.metrics()["serendipity@10"])
    shown = pd.read_csv(folder / "tables/Pop-BPR-sample-results.csv")
    row = shown[shown["metric"].eq("serendipity@10") & shown["method"].eq("BPR")].iloc[0]
    assert row["users_ci_low"] <= row["mean"] <= row["users_ci_high"]
    for grouping in ("history_length", "target_popularity"):
        groups = pd.read_csv(folder / f"tables/Pop-BPR-sample-by-{grouping}-serendipity.csv")
        of = groups[groups["metric"].eq("serendipity@10") & groups["method"].eq("BPR")]
        total = (of["value"] * of["users"]).sum() / of["users"].sum()
        assert total == pytest.approx(run.metrics()["serendipity@10"], rel=1e-5)
    lists = pd.read_csv(folder / "tables/Pop-BPR-sample-lists.csv")
    assert {"serendipity@10", "itemcoverage@10"} <= set(lists["metric"])
    written = (folder / "tables/Pop-BPR-sample.md").read_text(encoding="utf-8")
    assert "serendipity, bits" in written.partition("What is recommended")[2]
