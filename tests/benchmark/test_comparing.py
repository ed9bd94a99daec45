from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.benchmark import comparing
from recbole_hellm.benchmark.comparing import CompareSettings, Comparison, compare
from recbole_hellm.benchmark.kept_runs import KeptRun
from recbole_hellm.benchmark.plans import BENCHMARKS, Figure, Panel
from recbole_hellm.benchmark.running import Job
from recbole_hellm.cli import main
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.quick_start import execute

OnDone = Callable[[Job, Any], None]


class Runner:
    """Carries jobs out in this process; breaks off after so many."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.patience = 100

    def __call__(self, jobs: Iterable[Job], parallel: int, on_done: OnDone) -> None:
        for job in jobs:
            if self.patience == 0:
                raise KeyboardInterrupt
            self.patience -= 1
            config = job.config()
            self.done.append((job.model, config["seed"]))
            if job.model == "NeuMF":
                on_done(job, RunError("It broke."))
            else:
                on_done(job, execute(config))


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    found = Runner()
    monkeypatch.setattr(comparing, "carry_out", found)
    return found


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"datasets": "tiny", "records": str(tmp_path / "records")}


def test_what_is_missing_is_run_and_what_is_there_is_not(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any], tmp_path: Path
) -> None:
    given = CompareSettings(models="Pop,BPR", seeds=2, output=str(tmp_path / "out"), **settings)
    text = compare(given, quick)
    assert runner.done == [("Pop", 2024), ("BPR", 2024), ("Pop", 2025), ("BPR", 2025)]
    assert "Comparison: tiny, mask_history=seen" in text
    assert "BPR against each: tiny, seen masked" in text
    for grouping in ("training interactions", "popularity of the test item", "equal times"):
        assert f"N@10 by {grouping}" in text or grouping in text
    assert "What is recommended" in text
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"comparison-tiny.{kind}" for kind in ("md", "tex", "html")} <= names
    assert {"comparison-tiny-1.csv", "comparison-tiny-cost.svg"} <= names
    again = compare(given, quick)
    assert len(runner.done) == 4
    assert again == text
    # Without the run directories, the records are enough.
    more = compare(CompareSettings(models="Pop,BPR", seeds=3, **settings), quick)
    assert runner.done[4:] == [("Pop", 2026), ("BPR", 2026)]
    assert " 3 " in more


def test_records_alone_make_the_tables(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any], tmp_path: Path
) -> None:
    text = compare(CompareSettings(models="Pop,BPR", **settings), quick)
    elsewhere = {"data_path": str(tmp_path / "nothing"), "runs_dir": str(tmp_path / "none")}
    kept = CompareSettings(models="Pop,BPR", kept_only=True, **settings)
    assert compare(kept, quick | elsewhere) == text
    assert not (tmp_path / "none").exists()
    with pytest.raises(RunError, match=r"holds no record of comparison on tiny with these"):
        compare(kept, quick | {"epochs": 7})


def test_an_interrupted_benchmark_goes_on_where_it_stopped(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any]
) -> None:
    runner.patience = 2
    given = CompareSettings(models="Pop,BPR,LightGCN", **settings)
    with pytest.raises(KeyboardInterrupt):
        compare(given, quick)
    runner.patience = 100
    compare(given, quick)
    assert runner.done == [("Pop", 2024), ("BPR", 2024), ("LightGCN", 2024)]


def test_a_run_that_fails_leaves_its_place_empty_and_is_told(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any]
) -> None:
    text = compare(CompareSettings(models="NeuMF,Pop,BPR", **settings), quick)
    assert text.endswith("Missing: NeuMF on tiny, seed 2024 (It broke.)")
    assert "NeuMF" not in text.partition("Missing")[0]


def test_slow_methods_get_one_seed(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = comparing.keep

    def slow(run: Any, *rest: Any) -> KeptRun:
        if run.record["model"] == "BPR":
            run.record["cost"] |= {"train_seconds": 2000.0, "train_cpu_seconds": 901.0}
        else:
            run.record["cost"] |= {"train_seconds": 2000.0, "train_cpu_seconds": 899.0}
        return real(run, *rest)

    monkeypatch.setattr(comparing, "keep", slow)
    text = compare(CompareSettings(models="Pop,BPR", seeds=3, minutes=15.0, **settings), quick)
    assert runner.done == [("Pop", 2024), ("BPR", 2024), ("Pop", 2025), ("Pop", 2026)]
    rows = [line.split() for line in text.splitlines()]
    first = {cells[0]: cells[1] for cells in reversed(rows) if cells[:1] in (["Pop"], ["BPR"])}
    assert first == {"Pop": "3", "BPR": "1"}


def test_runs_of_other_data_do_not_mix(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    make_dataset: Callable[[Path, pd.DataFrame], None],
    interactions: pd.DataFrame,
    tmp_path: Path,
) -> None:
    compare(CompareSettings(models="Pop", **settings), quick)
    make_dataset(tmp_path / "data/tiny", interactions[interactions["user_id"] != "u39"])
    other = quick | {"data_path": str(tmp_path / "data")}
    with pytest.raises(RunError, match="have different splits"):
        compare(CompareSettings(models="Pop,BPR", **settings), other)


FIGURE = Figure(
    "toy",
    "Toy figure",
    "LightGCN",
    (Panel("d", {"embedding_size": (4, 8)}), Panel("L", {"n_layers": (1, 2)})),
)


def test_a_figure_over_settings(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BENCHMARKS, "toy", FIGURE)
    given = CompareSettings(benchmark="toy", output=str(tmp_path / "out"), **settings)
    text = compare(given, quick)
    assert len(runner.done) == 4
    data = pd.read_csv(tmp_path / "out/toy-tiny.csv")
    assert data["panel"].tolist() == ["d", "d", "L", "L"]
    assert data["embedding_size"].tolist()[:2] == [4, 8]
    kept = {run.recipe: run for run in comparing.read_kept(tmp_path / "records", "tiny").values()}
    assert sorted(data["recall@20"]) == pytest.approx(
        sorted(run.metrics("train")["recall@20"] for run in kept.values()), abs=1e-7
    )
    assert (tmp_path / "out/toy-tiny.svg").is_file()
    assert "Toy figure: tiny" in text
    # A table needs the ranks, which the points of a figure do not keep; the run itself is there.
    compare(CompareSettings(models="LightGCN", **settings), quick | {"n_layers": 2})
    assert len(runner.done) == 5
    assert all(not run.detailed for run in kept.values() if run.record["seed"] == 1)


def test_equal_points_are_run_once(settings: dict[str, Any], quick: dict[str, Any]) -> None:
    figure = Comparison(CompareSettings(benchmark="fig3", **settings), "tiny", quick)
    (wanted,) = figure.by_seed
    default = Comparison(CompareSettings(models="HeLLMPre", **settings), "tiny", quick)
    recipes = [one.recipe for one in wanted]
    assert len(recipes) == 28
    assert len(set(recipes)) == 25  # every panel holds the default
    assert default.by_seed[0][0].recipe in recipes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"needs --benchmark=NAME or --models"),
        ({"benchmark": "table2"}, r"Unknown benchmark 'table2' \(did you mean table"),
        ({"benchmark": "table1", "models": "Pop"}, "table1 has no method 'Pop'"),
        ({"benchmark": "fig3", "models": "VBPR"}, "fig3 is about HeLLMPre"),
        ({"benchmark": "table1", "reference": "VBPR"}, "a benchmark has its own"),
        ({"models": "Pop", "seeds": 0}, "seeds=0 must be a number from 1 on"),
        ({"models": "Pop", "jobs": 0}, "jobs=0 must be at least 1"),
        ({"models": "Pop,Nope"}, "Unknown model 'Nope'"),
        ({"models": "Pop", "datasets": "tiny"}, "Unknown option 'epohcs'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    given: dict[str, Any], message: str, runner: Runner, quick: dict[str, Any], tmp_path: Path
) -> None:
    more = {"epohcs": 3} if "epohcs" in message else {}
    with pytest.raises(ConfigError, match=message):
        compare(CompareSettings(**given, records=str(tmp_path)), quick | more)
    assert runner.done == []


def test_the_command_line(
    runner: Runner, quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--{key}={value}" for key, value in quick.items()]
    arguments += ["--model=Pop,BPR", "--dataset=tiny", f"--records={tmp_path}/records"]
    assert main(["compare", *arguments, "--seeds=[5]"]) == 0
    assert runner.done == [("Pop", 5), ("BPR", 5)]
    assert "BPR against each" in capsys.readouterr().out
    assert main(["compare", "--benchmark=table9"]) == 2
    assert "Unknown benchmark" in capsys.readouterr().err
