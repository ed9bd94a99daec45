"""Rows that gather their histories are the rows that RecBole would hold."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction, cat_interactions

from recbole_hellm.data.interactions.history_rows import HistoryRows, Stretches

VALUES = {
    "item_list": torch.arange(10, 20),
    "time_list": torch.arange(10) / 2,
    "pair_list": torch.arange(20).reshape(10, 2),
}
BEGINS, COUNTS = [0, 0, 1, 5, 5], [1, 2, 3, 1, 2]
LISTS = {  # three places each, as they would be held
    name: torch.stack(
        [
            torch.cat([values[begin : begin + count], torch.zeros_like(values[: 3 - count])])
            for begin, count in zip(BEGINS, COUNTS, strict=True)
        ]
    )
    for name, values in VALUES.items()
}
OWN = {"user": torch.tensor([1, 1, 1, 2, 2]), "item": torch.tensor([11, 12, 14, 16, 17])}


@pytest.fixture
def rows() -> HistoryRows:
    return HistoryRows(OWN, Stretches(VALUES, torch.tensor(BEGINS), torch.tensor(COUNTS), 3))


@pytest.fixture
def held() -> Interaction:
    return Interaction(OWN | LISTS)


def same(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    assert ours.columns == theirs.columns == list(ours) == list(theirs)
    for name in theirs.columns:
        assert name in ours
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name])
        assert torch.equal(getattr(ours, name), theirs[name])
        assert torch.equal(ours.interaction[name], theirs[name])


SELECTIONS = [
    *([3, 0], [], [0, 0], range(1, 4), slice(1, None), slice(0, 0)),
    *(np.array([4, 2]), np.array([True, False, True, False, True])),
    *(torch.tensor([4, 2]), torch.tensor([False, True, True, False, True])),
]


@pytest.mark.parametrize("index", SELECTIONS, ids=repr)
def test_rows_are_selected_as_recbole_selects_them(
    rows: HistoryRows, held: Interaction, index: Any
) -> None:
    same(rows[index], held[index])
    assert isinstance(rows[index], HistoryRows)
    same(rows[index][0:1], held[index][0:1])


def test_the_lists_of_all_rows(rows: HistoryRows, held: Interaction) -> None:
    same(rows, held)
    same(rows.gathered(), held)
    assert type(rows.gathered()) is Interaction


@pytest.mark.parametrize("index", [0, 3, -1])
def test_one_row(rows: HistoryRows, held: Interaction, index: int) -> None:
    for name in held.columns:
        assert torch.equal(rows[index][name], held[index][name])


def test_what_recbole_does_with_rows(rows: HistoryRows, held: Interaction) -> None:
    same(rows.to("cpu"), held.to("cpu"))
    same(rows.to("cpu", "item"), held.to("cpu", "item"))
    same(rows.cpu(), held.cpu())
    assert {name: values.tolist() for name, values in rows.numpy().items()} == {
        name: values.tolist() for name, values in held.numpy().items()
    }
    same(rows.repeat(2), held.repeat(2))
    same(rows.repeat_interleave(2), held.repeat_interleave(2))
    joined, theirs = cat_interactions([rows, rows]), cat_interactions([held, held])
    for name in theirs.columns:
        assert torch.equal(joined[name], theirs[name])


def test_columns_are_changed_in_place(rows: HistoryRows, held: Interaction) -> None:
    for one in (rows, held):
        one["new"] = torch.ones(5)
        one.update(Interaction({"user": torch.zeros(5), "item_list": torch.ones(5, 3)}))
        del one["time_list"]
        one.drop("item")
    assert set(rows.columns) == set(held.columns) == {"user", "new", "item_list", "pair_list"}
    for name in held.columns:
        assert torch.equal(rows[name], held[name])
    with pytest.raises(KeyError):
        del rows["time_list"]
    for one in (rows, held):
        one.add_prefix("neg_")
    assert set(rows.columns) == set(held.columns)
    assert torch.equal(rows["neg_pair_list"], held["neg_pair_list"])
    # Only these rows changed, not those they were selected from.
    assert "pair_list" in VALUES


def test_order_is_changed_in_place(rows: HistoryRows, held: Interaction) -> None:
    for one in (rows, held):
        one.sort(by=["user", "item_list"])
        one.sort("item")
    same(rows, held)
    with pytest.raises(KeyError):
        rows.sort("absent")
    for one in (rows, held):
        torch.manual_seed(0)
        one.shuffle()
    same(rows, held)


def test_rows_without_a_history(rows: HistoryRows) -> None:
    rows["weight"] = torch.ones(5)
    more = rows.with_rows({"user": torch.tensor([9]), "item": torch.tensor([8])})
    same(more[:5], rows)
    assert {name: more[name][5].sum().item() for name in more.columns} == {
        **{"user": 9, "item": 8, "weight": 0},
        **{"item_list": 0, "time_list": 0, "pair_list": 0},
    }


def test_rows_hold_no_lists(rows: HistoryRows) -> None:
    few = rows[[0]]
    assert {name: values.data_ptr() for name, values in few.lists.values.items()} == {
        name: values.data_ptr() for name, values in VALUES.items()
    }


def test_rows_are_copied_and_pickled(rows: HistoryRows, held: Interaction) -> None:
    same(copy.deepcopy(rows), held)
    same(pickle.loads(pickle.dumps(rows)), held)  # noqa: S301
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = rows.absent
