"""docs/reproducing.md: its code and its figures, from the kept records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.examples import DOCS, blocks

from recbole_hellm.benchmark.compare_settings import CompareSettings
from recbole_hellm.benchmark.comparing import Comparison
from recbole_hellm.benchmark.records import read_records

PAGE = " ".join((DOCS / "reproducing.md").read_text(encoding="utf-8").split())


def test_figures_are_compared_with_the_kept_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(DOCS)
    (tmp_path / "records").symlink_to(DOCS / "records")
    (code,) = blocks("reproducing.md", "python")
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102
    both = found["both"]
    assert len(both) == 16
    assert (both["difference"] == 0).all()


def test_times_are_those_of_the_records() -> None:
    settings = CompareSettings(
        benchmark="table3", seeds=3, kept_only=True, records=str(DOCS / "records")
    )
    rows = [run for method in Comparison(settings, "Beauty", {}).methods for run in method.runs]
    stages = {run.path.name: run for run in read_records(DOCS / "records", "Beauty").values()}
    minutes = []
    for runs in ([run for run in rows if run.record["seed"] == 2024], rows):
        used = {Path(path).name for run in runs for path in run.record["stages"].values()}
        for group in (runs, [stages[name] for name in used]):
            seconds = sum(run.record["cost"]["train_cpu_seconds"] for run in group)
            minutes.append(f"{seconds / 60:.0f}")
    told = re.search(
        r"rows trained for (\d+) minutes .* their stages for (\d+);.* (\d+) minutes for all rows "
        r"and (\d+) for their stages",
        PAGE,
    )
    assert told is not None
    assert [*told.groups()] == minutes


def test_spreads_and_data_are_those_of_the_table() -> None:
    kept = pd.read_csv(DOCS / "results/table3-Beauty-results.csv")
    spreads = kept.groupby("metric")["std"].agg(["min", "max"])
    for metric, name in (("recall@20", "R@20"), ("ndcg@20", "N@20")):
        least, most = (f"{value:.4f}".lstrip("0") for value in spreads.loc[metric])
        assert f"{least} to {most} for {name}" in PAGE
    table = (DOCS / "results/table3-Beauty.md").read_text(encoding="utf-8")
    (line,) = {*re.findall(r"[\d,]+ test users, [\d,]+ candidate items, split \w+", table)}
    users, items, split = line.split(", ")
    assert f"{users}, {items} and the {split}." in PAGE
