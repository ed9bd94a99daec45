"""Small runs of each kind of model on the dataset ``tiny``, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm import run
from recbole_hellm.runs.recommending import Recommender
from recbole_hellm.runs.results import RunResult

SEQUENTIAL = {"hidden_size": 8, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 6, "n_layers": 1}


@pytest.fixture(scope="session")
def trained(
    tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, small_model: dict[str, Any]
) -> Callable[[str], RunResult]:
    """``trained(model)``: a run of a model, each trained once."""
    root, runs = tmp_path_factory.mktemp("exported"), {}
    sizes: dict[str, dict[str, Any]] = {
        "SASRec": SEQUENTIAL,
        "BSARec": SEQUENTIAL,
        "WEARec": SEQUENTIAL,
        "LightGCN": {"embedding_size": 8},
        "HeLLM": small_model,
    }

    def train(model: str) -> RunResult:
        if model not in runs:
            common = {
                "data_path": str(tiny_data),
                "runs_dir": str(root),
                "show_progress": False,
                "use_gpu": False,
                "threads": 1,
                "epochs": 1,
            }
            runs[model] = run(model, "tiny", **common | sizes.get(model, {}))
        return runs[model]

    return train


@pytest.fixture
def opened(trained: Callable[[str], RunResult]) -> Callable[[str], Recommender]:
    """``opened(model)``: a restored run."""
    return lambda model: Recommender.open(trained(model), device="cpu")
