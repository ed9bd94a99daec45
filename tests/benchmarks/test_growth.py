from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import growth
import numpy as np
import pytest
from growth import Point, finished, main, measure
from growth_data import LEAST, draw_features, draw_interactions


def test_interactions_have_ten_a_user_and_a_long_tail() -> None:
    users, items, times = draw_interactions(20_000, 5_000)
    counts = np.bincount(users, minlength=20_000)
    assert 9 < counts.mean() <= 10
    assert counts.min() >= LEAST - 4 and counts.max() > 40  # few items are drawn twice
    assert len(np.unique(users * 5_000 + items)) == len(users) == len(times)
    popular = np.sort(np.bincount(items, minlength=5_000))[::-1]
    assert popular[:500].sum() > 0.4 * len(items)
    assert popular[-500:].max() < 0.1 * popular[0]


def test_draws_depend_on_the_seed_alone() -> None:
    first, again, other = (draw_interactions(50, 40, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(first, other, strict=True))
    tables, others = draw_features(40, 3), draw_features(40, 4)
    assert {name: rows.shape for name, rows in tables.items()} == {
        "text": (40, 64),
        "image": (40, 64),
    }
    assert not np.array_equal(tables["text"], others["text"])
    assert not np.array_equal(tables["text"], tables["image"])


def test_steps_are_those_of_models_that_propagate() -> None:
    def overrides(what: str, steps: int = 7) -> dict[str, Any]:
        return Point(what, 10, 10, 1, steps).overrides(Path("w"), 700)

    assert overrides("FREEDOM")["train_batch_size"] == 100
    assert "train_batch_size" not in overrides("FREEDOM", steps=0)
    assert "train_batch_size" not in overrides("SASRec")
    # The stage of HeLLM is the very run that is measured by itself.
    assert overrides("HeLLM")["HeLLMPre.train_batch_size"] == 100
    assert "SASRec.train_batch_size" not in overrides("HeLLM")
    assert Point("SASRec", 10, 10, 1, 7).key == Point("SASRec", 10, 10, 1, 0).key
    assert Point("HeLLM", 10, 10, 1, 7).key != Point("HeLLM", 10, 10, 1, 0).key


def test_a_size_is_measured_plotted_and_not_measured_again(tmp_path: Path) -> None:
    work, plot = tmp_path / "work", tmp_path / "growth.svg"
    script = str(Path(growth.__file__))
    command = [sys.executable, script, "--smoke", "--models=LightGCN", f"--work={work}"]
    done = subprocess.run(  # noqa: S603
        [*command, f"--plot={plot}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = finished(work / "results.jsonl")
    assert [one["what"] for one in results] == ["prepare", "read (general)", "LightGCN"]
    assert {one["users"] for one in results} == {300}
    assert all(one["peak_mb"] > 0 and 2500 < one["interactions"] < 3500 for one in results)
    assert min(results[0]["prepare_s"], *(results[1][key] for key in ("read_s", "split_s"))) > 0
    assert min(results[2]["epoch_s"], results[2]["evaluation_s"]) > 0
    assert "seconds of evaluation" in plot.read_text(encoding="utf-8")
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["benchmark"] == "growth"
    assert line["figures"]["LightGCN_epoch_s"] == results[2]["epoch_s"]
    assert line["goals"][0]["value"] == max(one["peak_mb"] for one in results)
    again = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    # The last line tells the machine's load of the moment, too.
    assert again.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
    assert json.loads(again.stdout.splitlines()[-1])["figures"] == line["figures"]
    assert again.stderr == ""

    # A further model, in this process: what its own process would print.
    found = measure(Point("HeLLMPre", 300, 200, 1, 4), work)
    assert found["interactions"] == results[2]["interactions"]
    assert min(found["epoch_s"], found["evaluation_s"], found["peak_mb"]) > 0


def test_a_cut_line_is_measured_again_and_swallows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, work = tmp_path / "results.jsonl", tmp_path
    asked: list[Point] = []

    def process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(Point(**json.loads(command[-1])))
        point = {"interactions": 90, "pairs": 50, "items_seen": 5, "peak_mb": 1.0}
        return subprocess.CompletedProcess(command, 0, json.dumps(point) + "\n")

    monkeypatch.setattr(growth.subprocess, "run", process)
    options = ["--users=10,20", "--items=5", "--models=SASRec", f"--work={work}"]
    (work / "dataset/growth-10-5").mkdir(parents=True)
    (work / "dataset/growth-20-5").mkdir(parents=True)
    main([*options, f"--results={file}"])
    assert len(asked) == len(finished(file)) == 6
    text = file.read_text(encoding="utf-8")
    file.write_text(text[:-20], encoding="utf-8")
    main([*options, f"--results={file}"])
    assert [(point.what, point.users) for point in asked[6:]] == [("SASRec", 20)]
    assert finished(file)[-1]["what"] == "SASRec" and len(finished(file)) == 6


def test_what_fails_is_told_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        failed = json.loads(command[-1])["what"] == "HeLLMPre"
        point = {"interactions": 90, "pairs": 50, "items_seen": 5, "peak_mb": 1.0}
        return subprocess.CompletedProcess(command, int(failed), json.dumps(point) + "\n")

    monkeypatch.setattr(growth.subprocess, "run", process)
    options = ["--users=10", "--models=HeLLM", f"--work={tmp_path}"]
    with pytest.raises(SystemExit, match="Not measured: HeLLMPre of 10 users"):
        main(options)
    assert [one["what"] for one in finished(tmp_path / "results.jsonl")][-2:] == ["SASRec", "HeLLM"]


def test_the_largest_size_may_have_fewer_models() -> None:
    options = argparse.Namespace(
        users=(20, 10), items=5, models=("HeLLMPre", "SASRec"), largest=(), threads=1, steps=7
    )
    reading = ["prepare", "read (general)", "read (sequential)"]
    found = [(point.users, point.what) for point in growth.points(options)]
    both = [*reading, "HeLLMPre", "SASRec"]
    assert found == [(10, what) for what in both] + [(20, what) for what in both]
    options.largest = ("HeLLMPre",)
    found = [(point.users, point.what) for point in growth.points(options)]
    assert found == [(10, what) for what in both] + [(20, what) for what in both[:-1]]


def test_unknown_models_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--models=LightGCN,Pop"])
    assert "Pop not among HeLLMPre, LightGCN" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--models=LightGCN", "--largest=SASRec"])
    assert "--largest: SASRec not among LightGCN" in capsys.readouterr().err
