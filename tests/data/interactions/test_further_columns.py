from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.data.interactions.further_columns import columns_hash


def test_nothing_further_has_no_hash() -> None:
    frame = pd.DataFrame({"user_id": ["u"], "item_id": ["i"]})
    assert columns_hash({"inter": frame, "item": None}, left_out=["user_id", "item_id"]) is None
    assert columns_hash({"inter": frame}, left_out=["user_id"]) is not None


@pytest.mark.parametrize("values", [["a", "c"], ["b", "a"], [np.array(["a"]), "b"], ["a", None]])
def test_other_values_have_another_hash(values: list[Any]) -> None:
    first = columns_hash({"item": pd.DataFrame({"brand": ["a", "b"]})})
    frame = pd.DataFrame({"brand": pd.Series(values, dtype=object)})
    assert columns_hash({"item": frame}) != first
    assert columns_hash({"user": pd.DataFrame({"brand": ["a", "b"]})}) != first


def test_links_count() -> None:
    graph = {"kg": pd.DataFrame({"head_id": ["a"]})}
    assert columns_hash(graph, {"i": "a"}) != columns_hash(graph, {"i": "b"})


@pytest.fixture
def hash_of(
    make_config: Callable[..., Any],
    interactions: pd.DataFrame,
    make_dataset: Callable[[Path, pd.DataFrame], None],
    tmp_path: Path,
) -> Callable[..., str | None]:
    """Hash of a dataset with a column of items."""
    make_dataset(tmp_path / "data/tiny", interactions)

    def read(brands: str, **options: Any) -> str | None:
        items = sorted(interactions["item_id"].unique())
        rows = [f"{item}\t{brands[place % len(brands)]}" for place, item in enumerate(items)]
        rows.append("never-bought\tx")
        path = tmp_path / "data/tiny/tiny.item"
        path.write_text("\n".join(["item_id:token\tbrand:token", *rows]) + "\n")
        dataset = create_dataset(make_config("BPR", data_path=str(tmp_path / "data"), **options))
        found: str | None = dataset.columns_hash
        return found

    return read


def test_only_columns_that_are_read_count(hash_of: Callable[..., str | None]) -> None:
    assert hash_of("ab") is None
    columns = {"inter": ["user_id", "item_id"], "item": ["item_id", "brand"]}
    first = hash_of("ab", load_col=columns)
    assert first == hash_of("ab", load_col=columns)
    assert first is not None
    assert hash_of("ba", load_col=columns) != first
