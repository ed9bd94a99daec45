"""Lists of a run against a literal count of what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm import run
from recbole_hellm.benchmark.users import TestUsers
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.evaluation.list_metrics import LIST_METRICS
from recbole_hellm.evaluation.metrics import MetricSet


def test_lists_are_described_as_they_are(quick: dict[str, Any]) -> None:
    result = run("BPR", "tiny", **quick, save_topk=12)
    test_users = TestUsers.open(HellmConfig("BPR", "tiny", quick))
    frame = pd.read_parquet(result.path / "topk-seen.parquet")
    lists = test_users.lists_of(result)
    assert lists is not None
    assert lists.items.shape[1] == 12
    found = MetricSet(LIST_METRICS, (10,)).of_lists(lists)
    first_ten = frame[frame["place"] <= 10]
    assert found["itemcoverage@10"] == pytest.approx(first_ten["item"].nunique() / 31)
    dataset = test_users.dataset
    counts = dict(zip(dataset.item_tokens, dataset.training_counts[1:], strict=True))
    users = len(dataset.user_tokens)
    bits = [-np.log2(max(counts[item], 0.5) / users) for item in first_ten["item"]]
    assert found["novelty@10"] == pytest.approx(np.mean(bits))
    vectors = dict(
        zip(dataset.item_tokens, dataset.item_features()["text"].matrix.astype(float), strict=True)
    )
    distances = []
    for _, items in first_ten.groupby("user")["item"]:
        unit = np.stack([vectors[i] / np.linalg.norm(vectors[i]) for i in items])
        similar = unit @ unit.T
        distances.append(1 - similar[~np.eye(10, dtype=bool)].mean())
    assert found["diversity@10"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert test_users.encoders == {"text": "toy"}


def test_data_settings_alone_are_taken(quick: dict[str, Any]) -> None:
    given = quick | {"alpha_u2u": 0.5, "HeLLMPre.tau": 0.1}
    test_users = TestUsers.open(HellmConfig("HeLLMPre", "tiny", given))
    assert test_users.split == test_users.dataset.fingerprint
    users = len(test_users.dataset.histories.evaluated("test"))
    assert all(len(grouping.codes) == users for grouping in test_users.slices.groupings.values())
