from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.benchmark import comparing
from recbole_hellm.benchmark.compare_settings import CompareSettings
from recbole_hellm.benchmark.comparing import Comparison
from recbole_hellm.benchmark.plans.benchmarks import BENCHMARKS
from recbole_hellm.benchmark.plans.shapes import Figure, Panel
from recbole_hellm.benchmark.records import Record
from recbole_hellm.benchmark.running import Job
from recbole_hellm.cli.main import main
from recbole_hellm.comparisons import report
from recbole_hellm.data.features.store import save_features
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.reporting.evidence import GROUPINGS
from recbole_hellm.runs.running import execute

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
    fake = Runner()
    monkeypatch.setattr(comparing, "carry_out", fake)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"datasets": "tiny", "records": str(tmp_path / "records")}


def seeds_shown(text: str) -> dict[str, str]:
    """The number of seeds of each method in the first table."""
    rows = [line.split() for line in text.partition("\n\n\n")[0].splitlines()]
    names = (["NeuMF"], ["Pop"], ["BPR"])
    return {cells[0]: cells[1] for cells in reversed(rows) if cells[:1] in names}


def test_what_is_missing_is_run_and_what_is_there_is_not(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any], tmp_path: Path
) -> None:
    chosen = CompareSettings(models="Pop,BPR", seeds=2, output=str(tmp_path / "out"), **settings)
    text = report(chosen, quick).text
    assert runner.done == [("Pop", 2024), ("BPR", 2024), ("Pop", 2025), ("BPR", 2025)]
    assert "Comparison: tiny, mask_history=seen" in text
    assert "BPR against each" not in text  # the files have the rest
    assert f"  {tmp_path / 'out/Pop-BPR-tiny.md'}" in text.splitlines()
    written = (tmp_path / "out/Pop-BPR-tiny.md").read_text()
    every = report(CompareSettings(models="Pop,BPR", seeds=2, **settings), quick).text
    for title in ("BPR against each: tiny, seen masked", "What is recommended"):
        assert title in written
        assert title in every
    for grouping in GROUPINGS.values():
        assert f"N@10 {grouping}" in written
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"Pop-BPR-tiny.{kind}" for kind in ("md", "tex", "html")} <= names
    assert {"Pop-BPR-tiny-results.csv", "Pop-BPR-tiny-tests-BPR.csv"} <= names
    assert {"Pop-BPR-tiny-lists.csv", "Pop-BPR-tiny-cost.svg"} <= names
    again = report(chosen, quick).text
    assert len(runner.done) == 4
    assert again == text
    # Without the run directories, the records are enough.
    more = report(CompareSettings(models="Pop,BPR", seeds=3, **settings), quick).text
    assert runner.done[4:] == [("Pop", 2026), ("BPR", 2026)]
    assert seeds_shown(more) == {"Pop": "3", "BPR": "3"}


def test_records_alone_make_the_tables(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any], tmp_path: Path
) -> None:
    text = report(CompareSettings(models="Pop,BPR", **settings), quick).text
    elsewhere = {"data_path": str(tmp_path / "nothing"), "runs_dir": str(tmp_path / "none")}
    kept_only = CompareSettings(models="Pop,BPR", kept_only=True, **settings)
    assert report(kept_only, quick | elsewhere).text == text
    assert not (tmp_path / "none").exists()
    message = r"holds no record of Pop-BPR on tiny with these settings \(and 2 of others\)"
    with pytest.raises(RunError, match=message):
        report(kept_only, quick | {"epochs": 7})


def test_an_interrupted_benchmark_goes_on_where_it_stopped(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any]
) -> None:
    runner.patience = 2
    chosen = CompareSettings(models="Pop,BPR,LightGCN", **settings)
    with pytest.raises(KeyboardInterrupt):
        report(chosen, quick)
    runner.patience = 100
    report(chosen, quick)
    assert runner.done == [("Pop", 2024), ("BPR", 2024), ("LightGCN", 2024)]


def test_a_run_that_fails_leaves_its_place_empty_and_is_told(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = report(CompareSettings(models="NeuMF,Pop,BPR", **settings), quick)
    assert shown.failed == {"NeuMF on tiny, seed 2024": "It broke."}
    assert "NeuMF" not in seeds_shown(shown.text)
    assert "Not in the records: NeuMF." in shown.text
    with pytest.raises(RunError, match="NeuMF on tiny, seed 2024: It broke"):
        report(CompareSettings(models="NeuMF", **settings), quick)
    arguments = [f"--{key}={value}" for key, value in quick.items()]
    arguments += ["--models=NeuMF,Pop", "--dataset=tiny", f"--records={settings['records']}"]
    assert main(["compare", *arguments]) == 2
    printed = capsys.readouterr()
    assert "Comparison: tiny" in printed.out
    assert "is not complete: NeuMF on tiny, seed 2024: It broke." in printed.err


def test_slow_methods_get_one_seed(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = comparing.write_record

    def slow(run: Any, *rest: Any, **options: Any) -> Record:
        if run.record["model"] == "BPR":
            run.record["cost"] |= {"train_seconds": 2000.0, "train_cpu_seconds": 901.0}
        else:
            run.record["cost"] |= {"train_seconds": 2000.0, "train_cpu_seconds": 899.0}
        return real(run, *rest, **options)

    monkeypatch.setattr(comparing, "write_record", slow)
    chosen = CompareSettings(models="Pop,BPR", seeds=3, minutes=15.0, **settings)
    text = report(chosen, quick).text
    assert runner.done == [("Pop", 2024), ("BPR", 2024), ("Pop", 2025), ("Pop", 2026)]
    assert seeds_shown(text) == {"Pop": "3", "BPR": "1"}
    assert "Not in the records" not in text  # slow methods are not wanted more often


def test_runs_of_other_data_do_not_mix(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    make_dataset: Callable[[Path, pd.DataFrame], None],
    interactions: pd.DataFrame,
    tmp_path: Path,
) -> None:
    report(CompareSettings(models="Pop", **settings), quick)
    make_dataset(tmp_path / "data/tiny", interactions[interactions["user_id"] != "u39"])
    config = tmp_path / "there.yaml"
    config.write_text(f"data_path: {tmp_path}/data\n")
    rest = {key: value for key, value in quick.items() if key != "data_path"}
    # Records of other data are none of these data, and the file's data are those of the slices.
    text = report(CompareSettings(models="Pop,BPR", **settings), rest, [config]).text
    assert runner.done == [("Pop", 2024), ("Pop", 2024), ("BPR", 2024)]
    assert "35 test users" in text
    # Without data to look at, records of both cannot be told apart.
    kept_only = CompareSettings(models="Pop,BPR", kept_only=True, **settings)
    with pytest.raises(RunError, match="have the same settings and different data"):
        report(kept_only, quick)


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
    chosen = CompareSettings(benchmark="toy", output=str(tmp_path / "out"), **settings)
    text = report(chosen, quick).text
    assert len(runner.done) == 4
    lines = [line.split() for line in text.splitlines()]
    assert ["panel", "embedding_size", "n_layers", "seed"] in [cells[:4] for cells in lines]
    assert ["d", "4", "2024"] in [cells[:3] for cells in lines]
    data = pd.read_csv(tmp_path / "out/toy-tiny.csv")
    assert data["panel"].tolist() == ["d", "d", "L", "L"]
    assert data["embedding_size"].tolist()[:2] == [4, 8]
    records_by_recipe = {
        run.recipe: run for run in comparing.read_records(tmp_path / "records", "tiny").values()
    }
    assert sorted(data["recall@20"]) == pytest.approx(
        sorted(run.metrics("train")["recall@20"] for run in records_by_recipe.values()), abs=1e-7
    )
    assert (tmp_path / "out/toy-tiny.svg").is_file()
    assert "Toy figure: tiny" in text
    # A table needs the ranks, which the points of a figure do not keep; the run itself is there.
    report(CompareSettings(models="LightGCN", **settings), quick | {"n_layers": 2})
    assert len(runner.done) == 5
    assert all(not run.detailed for run in records_by_recipe.values() if run.record["seed"] == 1)


def test_equal_points_are_run_once(settings: dict[str, Any], quick: dict[str, Any]) -> None:
    figure = Comparison(CompareSettings(benchmark="fig3", **settings), "tiny", quick)
    (wanted,) = figure.by_seed
    default = Comparison(CompareSettings(models="HeLLMPre", **settings), "tiny", quick)
    recipes = [one.recipe for one in wanted]
    assert len(recipes) == 28
    assert len(set(recipes)) == 25  # every panel holds the default
    assert default.by_seed[0][0].recipe in recipes


def test_exempt_points_have_settings_of_their_own(
    settings: dict[str, Any], quick: dict[str, Any], tmp_path: Path
) -> None:
    def patience(overrides: dict[str, Any], *files: Path) -> dict[tuple[float, float], int]:
        chosen = CompareSettings(benchmark="fig4", **settings)
        (wanted,) = Comparison(chosen, "tiny", quick | overrides, files).by_seed
        return {
            (one.point["alpha_u2u"], one.point["beta_i2i"]): one.job.config()["stopping_step"]
            for one in wanted
        }

    patience_by_point = patience({})
    assert {alpha for (alpha, _), steps in patience_by_point.items() if steps == 29} == {0.0}
    assert {steps for (alpha, _), steps in patience_by_point.items() if alpha > 0} == {5}
    # What the user says holds for all.
    assert set(patience({"stopping_step": 2}).values()) == {2}
    (tmp_path / "own.yaml").write_text("stopping_step: 3\n", encoding="utf-8")
    assert set(patience({}, tmp_path / "own.yaml").values()) == {3}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"needs --benchmark=NAME or --models"),
        ({"benchmark": "table2"}, r"Unknown benchmark 'table2' \(did you mean table"),
        ({"benchmark": "table1", "models": "Pop"}, "table1 has no method 'Pop'"),
        ({"benchmark": "fig3", "models": "VBPR"}, "fig3 is about HeLLMPre"),
        ({"benchmark": "table1", "reference": "VBPR"}, "a benchmark has its own"),
        ({"models": "Pop", "seeds": 0}, "seeds=0 must be a number from 1 upwards"),
        ({"models": "Pop", "seeds": (1, 1)}, "a list of different seeds"),
        ({"models": "Pop", "jobs": 0}, "jobs=0 must be at least 1"),
        ({"models": "Pop"}, "A comparison shows ndcg@20, recall@20, which these runs would not"),
        ({"models": "Pop,Nope"}, "Unknown model 'Nope'"),
        ({"models": "Pop", "datasets": "tiny"}, "Unknown option 'epohcs'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    given: dict[str, Any], message: str, runner: Runner, quick: dict[str, Any], tmp_path: Path
) -> None:
    more = {"epohcs": 3} if "epohcs" in message else {}
    more |= {"topk": [5, 10]} if "recall@20" in message else {}
    with pytest.raises(ConfigError, match=message):
        report(CompareSettings(**given, records=str(tmp_path)), quick | more)
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


def test_data_without_features_have_tables_too(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "data/tiny").mkdir(parents=True)
    shutil.copy(tiny_data / "tiny/tiny.inter", tmp_path / "data/tiny/tiny.inter")
    bare = quick | {"data_path": str(tmp_path / "data")}
    text = report(CompareSettings(models="Pop,BPR", **settings), bare).text
    assert "What is recommended" in text


def test_what_the_records_lack_is_told(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any]
) -> None:
    report(CompareSettings(models="Pop,BPR", seeds=2, **settings), quick)
    kept_only = settings | {"kept_only": True}
    text = report(CompareSettings(models="Pop,BPR,LightGCN", **kept_only), quick).text
    assert "Not in the records: LightGCN." in text
    text = report(CompareSettings(models="Pop,BPR", seeds=(2024, 7, 8), **kept_only), quick).text
    assert "Not in the records: Pop (seeds 7, 8); BPR (seeds 7, 8)." in text


def test_a_part_of_a_figure_is_drawn(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BENCHMARKS, "toy", FIGURE)
    runner.patience = 1
    chosen = CompareSettings(benchmark="toy", **settings)
    with pytest.raises(KeyboardInterrupt):
        report(chosen, quick)
    kept_only = CompareSettings(
        benchmark="toy", kept_only=True, output=str(tmp_path / "o"), **settings
    )
    text = report(kept_only, quick).text
    assert "Not in the records: d 8; L 1; L 2." in text
    assert pd.read_csv(tmp_path / "o/toy-tiny.csv")["n_layers"].isna().all()


def test_other_item_features_make_other_runs(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    tiny_data: Path,
    interactions: pd.DataFrame,
    tmp_path: Path,
) -> None:
    shutil.copytree(tiny_data / "tiny", tmp_path / "data/tiny")
    overrides = quick | {"data_path": str(tmp_path / "data")}
    chosen = CompareSettings(models="Pop,VBPR", **settings)
    report(chosen, overrides)
    report(chosen, overrides)
    assert runner.done == [("Pop", 2024), ("VBPR", 2024)]
    items = sorted(interactions["item_id"].astype(str).unique())
    pictures = np.random.default_rng(1).normal(size=(len(items), 4)).astype(np.float32)
    save_features(tmp_path / "data/tiny", "image", "toy", items, pictures)
    report(chosen, overrides)  # Pop reads none, and its record still serves
    assert runner.done[2:] == [("VBPR", 2024)]


@pytest.mark.parametrize("key", ["output", "records"])
def test_folders_that_cannot_be_made_are_told_before_anything_runs(
    runner: Runner, settings: dict[str, Any], quick: dict[str, Any], tmp_path: Path, key: str
) -> None:
    (tmp_path / "file").write_text("")
    chosen = CompareSettings(models="Pop", **settings | {key: str(tmp_path / "file")})
    with pytest.raises(ConfigError, match=f"^{key}=.*file is not a folder and cannot be created"):
        report(chosen, quick)
    assert runner.done == []


def test_lists_are_no_longer_than_there_are_items(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    interactions: pd.DataFrame,
    make_dataset: Any,
    tmp_path: Path,
) -> None:
    items = sorted(interactions["item_id"].unique())
    few = interactions.assign(item_id=[items[row % 12] for row in range(len(interactions))])
    make_dataset(tmp_path / "few/tiny", few)
    overrides = quick | {"data_path": str(tmp_path / "few")}
    assert not report(CompareSettings(models="Pop", **settings), overrides).failed
    assert runner.done == [("Pop", 2024)]


def test_a_mistake_makes_no_folders(
    settings: dict[str, Any], quick: dict[str, Any], tmp_path: Path
) -> None:
    places = {"records": str(tmp_path / "kept"), "output": str(tmp_path / "tables")}
    with pytest.raises(ConfigError, match="Unknown option 'epoks'"):
        report(CompareSettings(models="Pop", **settings | places), quick | {"epoks": 1})
    assert not (tmp_path / "kept").exists()
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"models": "Pop,BPR", "seeds": 2}, "BPR.seed"),
        ({"benchmark": "fig3"}, "HeLLMPre.knn_k"),
        ({"benchmark": "table3"}, "SASRec.seed"),
        ({"benchmark": "pretrained"}, "HeLLM.backbone_layers"),
        ({"benchmark": "pretrained"}, "backbone_layers"),
    ],
)
def test_what_tells_runs_apart_is_not_addressed(
    settings: dict[str, Any], quick: dict[str, Any], given: dict[str, Any], key: str, tmp_path: Path
) -> None:
    message = f"{key} would apply to every run of"
    differing = CompareSettings(**given, **settings).plan.told_apart_by
    quick = {name: value for name, value in quick.items() if name not in differing}
    with pytest.raises(ConfigError, match=message):
        report(CompareSettings(**given, **settings), quick | {key: 5})
    (tmp_path / "c.yaml").write_text(f"{key}: 5\n")
    with pytest.raises(ConfigError, match=message):
        report(CompareSettings(**given, **settings), quick, [tmp_path / "c.yaml"])


def test_a_part_of_a_table_has_files_of_its_own(
    settings: dict[str, Any], quick: dict[str, Any]
) -> None:
    def name(**given: Any) -> str:
        return Comparison(CompareSettings(**given, **settings), "tiny", quick).file_name

    assert name(benchmark="table1") == "table1-tiny"
    assert name(benchmark="table1", models="SASRec,LightGCN") == "table1-tiny-LightGCN-SASRec"
    assert name(models="SASRec,LightGCN") == "SASRec-LightGCN-tiny"


def test_a_tables_own_settings_give_way_to_the_users(
    settings: dict[str, Any], quick: dict[str, Any], tmp_path: Path
) -> None:
    def patience(overrides: dict[str, Any], files: list[Path]) -> set[int]:
        chosen = CompareSettings(benchmark="table3", models="HeLLMPre", **settings)
        (wanted,) = Comparison(chosen, "tiny", quick | overrides, files).by_seed
        return {one.job.config()["stopping_step"] for one in wanted}

    config = tmp_path / "c.yaml"
    config.write_text("stopping_step: 3\n")
    assert patience({}, []) == {29}
    assert patience({"stopping_step": 4}, []) == {4}
    assert patience({}, [config]) == {3}


def test_other_protocols_are_compared_among_themselves(
    runner: Runner,
    settings: dict[str, Any],
    quick: dict[str, Any],
    spread_data: Path,
    tmp_path: Path,
) -> None:
    """General and sequential methods, paired by user, with everything told in heads."""
    temporal = {"split": "temporal", "split_points": [0.6, 0.8], "data_path": str(spread_data)}
    overrides = quick | temporal | {"epochs": 1}
    chosen = CompareSettings(models="Pop,SASRec", **settings)
    comparison = Comparison(chosen, "tiny", overrides)
    assert comparison.file_name == "Pop-SASRec-tiny-temporal-0.6-0.8"
    comparison.run()
    sheets = {sheet.name: sheet for sheet in comparison.sheets()}
    told = "split=temporal, split_points=[0.6, 0.8]"
    (page, *_) = comparison.write(tmp_path / "tables", list(sheets.values()))
    assert page.read_text(encoding="utf-8").splitlines()[0] == f"# Comparison: tiny, {told}"
    assert set(sheets) == {
        *("results", "validation", "tests-SASRec", "by-history_length", "lists"),
    }
    assert all(told in sheet.title for sheet in sheets.values())
    assert any("--split_rows=user" in note for note in sheets["results"].notes)
    for method in comparison.methods:
        for metric in ("recall@10", "ndcg@20"):
            for masking in ("seen", "none"):
                by_user = method.per_user(metric, masking).mean()
                assert by_user == pytest.approx(method.values(metric, masking)[0])
    assert comparison.methods[0].per_user("ndcg@10", "seen").shape == (
        comparison.methods[1].per_user("ndcg@10", "seen").shape
    )
    runner.done.clear()
    with pytest.raises(RunError, match="holds no record of"):  # those of another protocol
        report(CompareSettings(models="Pop,SASRec", kept_only=True, **settings), quick)
    sampled = overrides | {"candidates": "popularity-100"}
    text = report(CompareSettings(models="Pop", **settings), sampled).text
    heads = [line for line in text.splitlines() if told in line and "Comparison" in line]
    assert heads and all("SAMPLED METRICS" in head for head in heads)
