"""The base classes of metrics."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation import metric as metric_module
from recbole_hellm.evaluation.metric import ListMetric, Metric, RankMetric, UserListMetric
from recbole_hellm.evaluation.metrics import BUILT_IN, MetricSet
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.recommended import RecommendedLists


class Reciprocal(RankMetric):
    """The reciprocal of the place."""

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        return 1 / places


class Short(RankMetric):
    """A metric with a gain too many."""

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        return np.ones(k + 1)


class Width(ListMetric):
    """The length of the lists."""

    def value(self, lists: RecommendedLists) -> float:
        return lists.items.shape[1]


class OwnItems(UserListMetric):
    """Number of listed items that the user was trained on; remembers how it was called."""

    calls: list[int]

    def per_list(self, lists: RecommendedLists) -> np.ndarray:
        self.calls.append(len(lists.items))
        rows, items = lists.histories
        assert lists.targets is not None
        had = [set(items[rows == row]) for row in range(len(lists.items))]
        return np.array([len(had[row] & set(shown)) for row, shown in enumerate(lists.items)])


def test_metrics_of_single_lists_get_them_in_parts(
    lists: RecommendedLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = OwnItems()
    metric.calls = []
    monkeypatch.setattr(metric_module, "_LISTS", 2)
    chosen = MetricSet((metric, BUILT_IN["itemcoverage"]), (1, 3))
    values = chosen.per_user(lists=lists)
    assert metric.calls == [2, 2, 1] * 2
    assert {key: of.tolist() for key, of in values.items()} == {
        "ownitems@1": [0, 0, 0, 0, 0],
        "ownitems@3": [0, 0, 0, 0, 0],
    }
    moved = RecommendedLists(lists.items[::-1].copy(), lists.histories, lists.catalogue)
    with pytest.raises(AssertionError):
        chosen.per_user(lists=moved)  # no targets
    swapped = RecommendedLists(
        np.array([[9, 1, 10], [1, 2, 3], [4, 5, 6], [2, 7, 8], [1, 2, 3]]),
        lists.histories,
        lists.catalogue,
        lists.targets,
    )
    assert chosen.per_user(lists=swapped)["ownitems@3"].tolist() == [2, 1, 0, 1, 2]
    assert chosen.of_lists(swapped)["ownitems@1"] == pytest.approx(4 / 5)


def test_tied_items_come_in_any_order(ranks: Ranks) -> None:
    """The second user's item is equally likely at the places 2, 3 and 4."""
    tied = (1 / 2 + 1 / 3 + 1 / 4) / 3
    np.testing.assert_allclose(Reciprocal().per_user(ranks, 10), [1, tied, 0])
    np.testing.assert_allclose(Reciprocal().per_user(ranks, 3), [1, (1 / 2 + 1 / 3) / 3, 0])
    np.testing.assert_allclose(Reciprocal().per_user(ranks, 50), [1, tied, 1 / 50])


def test_gains_that_do_not_fit_are_refused(ranks: Ranks) -> None:
    with pytest.raises(ConfigError, match=r"short gives a gain of shape \(4,\) for 3 places"):
        Short().per_user(ranks, 3)


def test_metrics_of_lists_get_them_cut_to_k(lists: RecommendedLists) -> None:
    assert [Width().at(lists, k) for k in (1, 2, 3)] == [1, 2, 3]
    assert isinstance(Width().at(lists, 1), float)
    assert Width().lacks(lists.catalogue, len(lists.items), 3) == ""


def test_the_value_of_lists_is_the_mean_over_users(lists: RecommendedLists) -> None:
    class LargestItem(UserListMetric):
        def per_list(self, lists: RecommendedLists) -> np.ndarray:
            return lists.items.max(axis=1)

    metric = LargestItem()
    assert metric.per_user(lists, 3).tolist() == [3, 6, 9, 9, 10]
    assert metric.per_user(lists, 3).dtype == np.float64
    assert metric.at(lists, 3) == pytest.approx(37 / 5)
    assert metric.at(lists, 1) == pytest.approx(15 / 5)


@pytest.mark.parametrize(
    ("base", "method", "over_users"),
    [(RankMetric, "gain", True), (ListMetric, "value", False), (UserListMetric, "per_list", True)],
)
def test_what_a_metric_declares(base: type[Metric], method: str, over_users: bool) -> None:
    with pytest.raises(TypeError, match=method):
        type("Unfinished", (base,), {})()
    plain = type("Plain", (base,), {method: None})()
    assert (plain.name, plain.head, plain.spec) == ("plain", "plain", ".4f")
    assert (plain.bigger_is_better, plain.over_users) == (True, over_users)
    assert type("Labelled", (base,), {method: None, "column": "L"})().head == "L"


def test_names_are_the_classes_own_unless_they_are_said() -> None:
    class Base(ListMetric):
        name = "Given"

        def value(self, lists: RecommendedLists) -> float:
            return 0.0

    class Derived(Base):
        pass

    assert (Base.name, Derived.name) == ("given", "derived")
    assert issubclass(Derived, Metric)
    assert (Base().head, Base().over_users) == ("given", False)
