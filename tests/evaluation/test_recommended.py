"""What metrics are told of lists and items, against the dataset itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.errors import DataError
from recbole_hellm.evaluation.recommended import Catalogue, RecommendedLists


def test_a_catalogue_is_that_of_the_dataset(
    make_parts: Callable[..., Any],
    make_dataset: Callable[[Path, pd.DataFrame], None],
    interactions: pd.DataFrame,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tiny"
    make_dataset(folder, interactions)
    (folder / "tiny.item").write_text("item_id:token\ttitle:token_seq\ni03\tA title\n")
    _, dataset, _ = make_parts("BPR", data_path=str(tmp_path))
    catalogue = Catalogue.of(dataset)
    matrix = dataset.item_features()["text"].matrix
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    assert catalogue.features == pytest.approx(units)
    assert catalogue.metadata.title("i03") == "A title"
    assert (catalogue.n_users, len(catalogue.tokens)) == (40, 30)
    for file in (folder / "features").iterdir():
        file.unlink()
    assert Catalogue.of(dataset).features is None


def test_lists_come_with_what_their_users_had(make_parts: Callable[..., Any]) -> None:
    _, dataset, _ = make_parts("BPR")
    histories = dataset.histories
    users = histories.evaluated("test")[[4, 0, 9]]
    items = np.arange(1, 10).reshape(3, 3)
    for phase in ("valid", "test"):
        lists = RecommendedLists.of(dataset, Catalogue.of(dataset), items, users, phase)
        assert lists.targets is not None
        assert lists.targets.tolist() == histories.targets(phase)[[4, 0, 9]].tolist()
        last = lists.rows(1, 3).top(2)
        assert last.items.tolist() == [[4, 5], [7, 8]]
        rows, known = last.histories
        for row, user in enumerate(users[1:]):
            held = histories.items[histories.offsets[user] : histories.offsets[user + 1] - 2]
            assert known[rows == row].tolist() == held.tolist()
        assert last.targets is not None
        assert last.targets.tolist() == lists.targets[1:].tolist()


@pytest.mark.parametrize("items", [np.full((2, 2), 4), np.zeros((2, 2), int), np.zeros((0, 2))])
def test_lists_of_something_else_are_refused(items: np.ndarray) -> None:
    rows = (np.arange(2), np.ones(2, int))
    with pytest.raises(DataError, match="other than the item ids 1 to 3"):
        RecommendedLists(items, rows, Catalogue(np.ones(4, int), 2)).check()
