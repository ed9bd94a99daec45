from __future__ import annotations

from collections.abc import Callable

import pytest

from recbole_hellm.benchmark.methods import Method, methods
from recbole_hellm.benchmark.records import Record


@pytest.fixture
def three(make_kept: Callable[..., Record], good: list[int], poor: list[int]) -> list[Method]:
    """The methods of ``support.sheets.TABLE``, the last one with two seeds."""
    nearly = [0, *good[1:]]
    return methods(
        {
            "LightGCN": [make_kept("LightGCN", poor, dataset="Beauty")],
            "SASRec": [make_kept("SASRec", nearly, dataset="Beauty")],
            "HeLLM": [
                make_kept("HeLLM", good, seed=1, dataset="Beauty"),
                make_kept("HeLLM", nearly, seed=2, dataset="Beauty"),
            ],
        }
    )
