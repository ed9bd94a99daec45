"""Comparisons in notebooks; what they measure is tested in tests/benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_hellm import compare
from recbole_hellm.comparisons import Compared
from recbole_hellm.errors import ConfigError, HellmError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("compared")
    return {"records": str(folder / "records"), "runs_dir": str(folder / "runs")}


@pytest.fixture
def compared(quick: dict[str, Any], folders: dict[str, str]) -> Compared:
    return compare(["Pop", "BPR"], "tiny", seeds=2, **quick | folders)


def test_tables_are_frames(compared: Compared) -> None:
    results = compared.tables["results"]
    assert {*results["method"]} == {"Pop", "BPR"}
    assert {"validation", "tests-BPR"} < compared.tables.keys()
    assert not compared.failed
    runs = compared.comparison.methods[1].runs
    value = sum(run.metric("ndcg@10", "seen") for run in runs) / 2
    shown = results.query("method == 'BPR' and metric == 'ndcg@10'")["mean"]
    assert list(shown) == [pytest.approx(value)]


def test_a_notebook_shows_the_table_and_the_plot(compared: Compared) -> None:
    shown = compared._repr_html_()
    assert shown.startswith("<table>")
    assert "</svg>" in shown
    assert repr(compared).startswith("Comparison: tiny, mask_history=seen")
    assert len(compared.figure().axes) == 1


def test_files_are_written_where_they_are_wanted(
    quick: dict[str, Any], folders: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shown = compare("Pop,BPR", "tiny", seeds=2, output=output, **quick | folders)
    assert (output / "Pop-BPR-tiny.md").is_file()
    assert (
        shown.tables.keys() == compare("Pop,BPR", "tiny", seeds=2, **quick | folders).tables.keys()
    )


def test_mistakes_are_told(quick: dict[str, Any], folders: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="needs --benchmark=NAME or --models"):
        compare(**quick | folders)
    with pytest.raises(HellmError, match=r"Unknown option 'epoks'.* \(did you mean epochs\?\)"):
        compare("Pop,BPR", "tiny", epoks=3, **quick | folders)
