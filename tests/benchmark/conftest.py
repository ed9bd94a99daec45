"""Kept records made by hand, so that every figure in a table is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from recbole_hellm.benchmark.record_ranks import compress_ranks, in_token_order, write_kept_ranks
from recbole_hellm.benchmark.records import KeptRun, read_kept
from recbole_hellm.evaluation.ranking import Ranks, summarise
from recbole_hellm.evaluation.slices import Grouping, UserSlices, metrics_by_slice
from recbole_hellm.runs.directory import content_hash
from recbole_hellm.runs.identity import recipe_of

USERS = 60
TOKENS = [f"u{n:02d}" for n in range(USERS)]


def ranks_of(higher: Sequence[int], tied: Sequence[int] | None = None) -> Ranks:
    """Ranks of users 0..U-1 among 100 candidates."""
    count = len(higher)
    ties = np.zeros(count, dtype=np.int64) if tied is None else np.asarray(tied)
    return Ranks(np.arange(count), np.asarray(higher), ties, np.full(count, 100))


def groups() -> UserSlices:
    """Two groups under each of the groupings that tables show."""
    codes = np.arange(USERS) % 2
    names = ("history_length", "target_popularity", "target_warmth", "target_ties")
    return UserSlices(np.arange(USERS), {n: Grouping(("few", "many"), codes) for n in names})


@pytest.fixture
def make_kept(tmp_path: Path) -> Callable[..., KeptRun]:
    """Write a record with given ranks and read it back."""

    def make(
        model: str,
        higher: Sequence[int],
        seed: int = 2024,
        settings: dict[str, Any] | None = None,
        **fields: Any,
    ) -> KeptRun:
        dataset = fields.get("dataset", "tiny")
        own = {"model": model, "seed": seed, **(settings or {})}
        identity = {"split": "s" * 64, "features": "f", "stages": {}, "version": "0.1.0"}
        recipe = content_hash(recipe_of({**identity, "settings": own}))
        folder = tmp_path / "records" / dataset / model / f"{recipe}"
        folder.mkdir(parents=True)
        ranks = {
            name: ranks_of(np.asarray(higher) + shift)
            for name, shift in (("seen", 0), ("train", 1), ("none", 2))
        }
        metrics = {name: summarise(of, ["recall", "ndcg"], [10, 20]) for name, of in ranks.items()}
        record = {
            "model": model,
            "dataset": dataset,
            "masking": "seen",
            "split": "s" * 64,
            "candidates": "c" * 64,
            "users": USERS,
            "items": 100,
            "seed": seed,
            "best_epoch": 4,
            "epochs": 6,
            "valid": {"seen": metrics["seen"]},
            "test": metrics,
            "cost": {
                "train_seconds": 120.0,
                "train_cpu_seconds": 90.0,
                "test_seconds": 1.25,
                "peak_memory_mb": 1000.0,
                "parameters": 3_000_000,
                "trainable_parameters": 2_000_000,
            },
            "cost_with_stages": {"train_seconds": 220.0, "train_cpu_seconds": 190.0},
            "stages": {},
            "features": {"text": "toy"},
            "recipe": recipe,
        } | fields
        write_kept_ranks(folder / "ranks.parquet", compress_ranks(in_token_order(ranks, TOKENS)))
        rows = [
            metrics_by_slice(of, groups(), ["recall", "ndcg"], [10, 20]).assign(masking=name)
            for name, of in ranks.items()
        ]
        pd.concat(rows).to_csv(folder / "slices.csv", index=False)
        (folder / "config.yaml").write_text(yaml.safe_dump(own))
        (folder / "identity.json").write_text(json.dumps(identity))
        (folder / "environment.json").write_text("{}")
        (folder / "metrics.json").write_text(json.dumps(record))
        return read_kept(tmp_path / "records", dataset)[recipe]

    return make


@pytest.fixture
def good() -> list[int]:
    """Ranks of a method that finds the targets of two users in three."""
    return [0 if n % 3 else 40 for n in range(USERS)]


@pytest.fixture
def poor() -> list[int]:
    """Ranks of a method that finds every tenth target, lower down."""
    return [4 if n % 10 == 0 else 50 for n in range(USERS)]
