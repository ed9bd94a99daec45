from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recbole_hellm.data.features.item_titles import item_titles, titles_hash
from recbole_hellm.errors import DataError


class Folder(dict[str, Any]):
    """The settings of a run, as far as the item table needs them."""

    dataset_directory: Path


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[[str], Any]:
    def make(table: str) -> Any:
        (tmp_path / "demo.item").write_text(table)
        config = Folder(dataset="demo")
        config.dataset_directory = tmp_path
        return SimpleNamespace(config=config, item_tokens=np.array(["b", "a", "c"]))

    return make


def test_titles_stand_in_the_order_of_the_items(dataset: Any) -> None:
    table = "item_id:token\ttitle:token_seq\na\tRed lipstick\nb\t Soap \nd\tUnknown\n"
    assert item_titles(dataset(table)) == ["Soap", "Red lipstick", ""]


def test_the_hash_is_of_the_items_titles(dataset: Any) -> None:
    table = "item_id:token\ttitle:token_seq\na\tRed\nb\tSoap\nd\t{}\n"
    first = titles_hash(dataset(table.format("x")))
    assert titles_hash(dataset(table.format("y"))) == first
    assert titles_hash(dataset(table.replace("Soap", "Sopa"))) != first
    other = dataset(table)
    other.item_tokens = other.item_tokens[::-1]
    assert titles_hash(other) == first


@pytest.mark.parametrize(
    "table", ["item_id:token\tbrand:token\na\tAldo\n", "item_id:token\ttitle:token_seq\nd\tRed\n"]
)
def test_no_title_is_an_error(dataset: Any, table: str) -> None:
    with pytest.raises(DataError, match=r"demo\.item has none for the items of 'demo'; write them"):
        item_titles(dataset(table))
