from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.data.preparation.kcore import k_core
from recbole_hellm.errors import ConfigError, DataError


def frame(rows: list[tuple[str, str]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["user_id", "item_id"])
    return table.assign(timestamp=np.arange(len(rows)), other="x")


def is_core(rows: list[tuple[str, str]], k: int) -> bool:
    users, items = [user for user, _ in rows], [item for _, item in rows]
    return all(users.count(user) >= k and items.count(item) >= k for user, item in rows)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [2, 3])
def test_the_core_is_the_largest_of_all_subsets(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(f"u{rng.integers(4)}", f"i{rng.integers(4)}") for _ in range(12)]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(range(12), size) for size in range(12, 0, -1)
    )
    best = next((s for s in subsets if is_core([rows[place] for place in s], k)), ())
    if not best:
        with pytest.raises(DataError, match=f"left in the {k}-core"):
            k_core(frame(rows), k)
        return
    assert k_core(frame(rows), k)["timestamp"].tolist() == list(best)


def test_dropping_goes_on_until_nothing_changes() -> None:
    chain = [(f"u{place}", f"i{place + step}") for place in range(50) for step in (0, 1)]
    square = [(user, item) for user in ("a", "b") for item in ("x", "y")]
    left = k_core(frame(chain + square), 2)  # the chain falls from both ends, link by link
    assert list(zip(left["user_id"], left["item_id"], strict=True)) == square
    assert left.index.tolist() == [0, 1, 2, 3]
    assert left.columns.tolist() == ["user_id", "item_id", "timestamp", "other"]


def test_nothing_is_dropped_without_need() -> None:
    table = frame([("a", "x"), ("a", "x"), ("b", "x")])
    for k in (0, 1):
        pd.testing.assert_frame_equal(k_core(table, k), table)
    assert k_core(table, 2)["user_id"].tolist() == ["a", "a"]  # a second time counts
    with pytest.raises(ConfigError, match="k_core=-1"):
        k_core(table, -1)
