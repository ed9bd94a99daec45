"""Ranks and recommended lists that a run writes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from support.runs import MASKINGS

from recbole_hellm.runs.results import RunResult


@pytest.mark.parametrize("masking", MASKINGS)
def test_ranks_are_those_of_the_metrics(
    bpr: RunResult, interactions: pd.DataFrame, masking: str
) -> None:
    ranks = pd.read_parquet(bpr.path / f"ranks-{masking}.parquet")
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"])
    groups = ordered.groupby("user_id")["item_id"].agg(list)
    lists = groups[groups.str.len() >= 3]
    assert ranks["user"].tolist() == lists.index.tolist()
    assert ranks["item"].tolist() == [items[-1] for items in lists]
    for row, items in zip(ranks.itertuples(), lists, strict=True):
        hidden = {"seen": items[:-1], "train": items[:-2], "none": []}[masking]
        assert row.candidates == 30 - len(set(hidden) - {items[-1]})
    assert not ranks["tied"].any()
    places = ranks["higher"] + 1
    assert bpr.metrics("test", masking)["recall@10"] == pytest.approx((places <= 10).mean())
    gains = [1 / math.log2(place + 1) if place <= 20 else 0 for place in places]
    assert bpr.metrics("test", masking)["ndcg@20"] == pytest.approx(np.mean(gains))


def test_saved_lists_agree_with_the_ranks(bpr: RunResult) -> None:
    lists = pd.read_parquet(bpr.path / "topk-seen.parquet")
    ranks = pd.read_parquet(bpr.path / "ranks-seen.parquet").set_index("user")
    assert lists["place"].tolist() == [1, 2, 3, 4] * 36
    for user, rows in lists.groupby("user"):
        place = ranks.loc[user, "higher"] + 1
        target = ranks.loc[user, "item"]
        assert (rows["item"].tolist().index(target) + 1 if place <= 4 else None) == (
            place if place <= 4 else None
        )
