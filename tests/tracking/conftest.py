"""Fixtures that several tests of trackers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.boards import serve
from support.tracked import INSTALLED, RECORDER
from werkzeug.test import Client

from recbole_hellm import run
from recbole_hellm.runs.results import RunResult


@pytest.fixture(scope="session")
def shop(
    tmp_path_factory: pytest.TempPathFactory, interactions: pd.DataFrame, make_dataset: Any
) -> Path:
    """A ``data_path`` whose dataset has an item table; one title is missing, one item unknown."""
    root = tmp_path_factory.mktemp("shop")
    make_dataset(root / "tiny", interactions)
    items = sorted(interactions["item_id"].unique())[1:]
    rows = [f"{item}\tThing {item}\tGoods Kind_{n % 3}" for n, item in enumerate(items)]
    rows[0] = rows[0].replace(f"Thing {items[0]}", "")
    header = "item_id:token\ttitle:token_seq\tcategories:token_seq"
    (root / "tiny/tiny.item").write_text("\n".join([header, *rows]) + "\n")
    return root


@pytest.fixture(scope="session")
def results(
    shop: Path, small_model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunResult]:
    """Runs of several models under one folder, by a name each."""
    options = {"runs_dir": str(tmp_path_factory.mktemp("board") / "runs"), "data_path": str(shop)}
    options |= {"show_progress": False, "use_gpu": False, "threads": 1, "epochs": 2}
    llm = run("HeLLM", "tiny", **options, **small_model)
    by_model = {"HeLLM": llm} | {stage.record["model"]: stage for stage in llm.stages}
    by_model["Pop"] = run("Pop", "tiny", **options)
    for width in (4, 8):
        by_model[f"BPR-{width}"] = run("BPR", "tiny", **options, embedding_size=width)
    return by_model


@pytest.fixture(scope="session")
def runs(results: dict[str, RunResult]) -> Path:
    return results["HeLLM"].path.parents[2]


@pytest.fixture(scope="session")
def site(runs: Path) -> Client:
    return serve(runs)


@pytest.fixture(scope="session")
def told(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run of which all trackers that are installed were told."""
    return run(
        "BPR",
        "tiny",
        data_path=str(tiny_data),
        runs_dir=str(tmp_path_factory.mktemp("told")),
        show_progress=False,
        use_gpu=False,
        threads=1,
        epochs=3,
        eval_step=2,
        embedding_size=8,
        trackers=["tensorboard", RECORDER, *INSTALLED],
    )
