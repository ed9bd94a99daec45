from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recbole_hellm.data.features.item_titles import item_titles, read_titles, titles_hash
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


def test_the_prompt_and_language_items_read_the_same_titles(dataset: Any, tmp_path: Path) -> None:
    table = "item_id:token\ttitle:token_seq\na\tRed <b>lipstick\nb\t\nc\tSoap  bar\nd\tOil\n"
    titles = {"a": "Red lipstick", "b": "", "c": "Soap bar", "d": "Oil"}
    made = dataset(table)
    assert read_titles(tmp_path, "demo") == titles
    assert item_titles(made) == [titles[token] for token in made.item_tokens]


@pytest.mark.parametrize(
    "table",
    [
        "item_id:token\tbrand:token\na\tAldo\n",
        "item_id:token\ttitle:token_seq\nd\tRed\n",
        "item_id:token\ttitle:token_seq\na\t<br>\n",
        None,
    ],
    ids=["no column", "of other items", "nothing but markup", "no table"],
)
def test_no_title_is_an_error(dataset: Any, table: str | None, tmp_path: Path) -> None:
    made, file = dataset(table or ""), tmp_path / "demo.item"
    if table is None:
        file.unlink()
    told = r"demo\.item has no titles of the items of 'demo', .*; write them into its column title"
    with pytest.raises(DataError, match=told):
        item_titles(made)
    if table is None or "Red" not in table:  # which is another item's
        with pytest.raises(DataError, match=told):
            read_titles(tmp_path, "demo")
