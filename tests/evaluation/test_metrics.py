"""Metrics by name, sets of them, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from recbole_hellm import extensions
from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.evaluation.metric import ListMetric, RankMetric, UserListMetric
from recbole_hellm.evaluation.metrics import BUILT_IN, MetricSet, find, validation_settings
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.recommended import RecommendedLists

SOURCE = """
import numpy as np

from recbole_hellm.evaluation.metric import ListMetric, RankMetric, UserListMetric


class First(RankMetric):
    def gain(self, places, k):
        return (places == 1) * 1


class Missed(RankMetric):
    bigger_is_better = False

    def gain(self, places, k):
        return np.zeros(k)

    def per_user(self, ranks, k):
        return (ranks.higher >= k) / ranks.candidates


class Recall(First):
    pass


class Odd(First):
    name = "a b"


class Unfinished(RankMetric):
    pass


instance = First()
five = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with metrics in a folder outside the package."""
    name = "metrics_of_somebody_else"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["NDCG", "ndcg", "GiniIndex", "novelty", "PERSONALISATION"])
def test_names_are_of_any_case(name: str) -> None:
    assert find(name).name == name.lower()


def test_every_metric_is_declared_once() -> None:
    assert len(BUILT_IN) == 16
    for name, metric in BUILT_IN.items():
        assert metric.name == name == type(metric).__name__.lower()
        assert type(metric).__doc__
    smaller = {name for name, metric in BUILT_IN.items() if not metric.bigger_is_better}
    assert smaller == {"giniindex", "averagepopularity", "popularitylift"}


def test_metrics_of_other_modules(module: str, ranks: Ranks) -> None:
    chosen = MetricSet.of(["Recall", f"{module}:First", f"{module}:Missed"], [2, 10])
    assert list(chosen.measures) == [
        f"{name}@{k}" for name in ("recall", "first", "missed") for k in (2, 10)
    ]
    values = chosen.per_user(ranks)
    assert values["first@2"].tolist() == [1, 0, 0]
    assert values["recall@2"].tolist() == pytest.approx([1, 1 / 3, 0])
    assert values["missed@10"].tolist() == [0, 0, 1 / 50]
    assert chosen.of_ranks(ranks)["missed@10"] == pytest.approx(1 / 150)
    assert find(f"{module}:instance").name == "first"


def test_metrics_of_installed_packages(
    module: str, monkeypatch: pytest.MonkeyPatch, ranks: Ranks
) -> None:
    entry = metadata.EntryPoint("TopOne", f"{module}:First", "recbole_hellm.metrics")
    monkeypatch.setattr(extensions.metadata, "entry_points", lambda group: [entry])
    extensions.installed.cache_clear()
    try:
        assert MetricSet.of(["topone"], [1]).of_ranks(ranks) == {"first@1": pytest.approx(1 / 3)}
        with pytest.raises(ConfigError, match=r"named 'toppone' \(did you mean topone\?\)"):
            find("toppone")
    finally:
        extensions.installed.cache_clear()


def test_the_metric_that_chooses_an_epoch_says_what_is_better(module: str) -> None:
    names = ["NDCG", "GiniIndex", f"{module}:Missed"]
    for written, (recorded, bigger) in {
        "NDCG@10": ("NDCG@10", True),
        "giniindex@10": ("giniindex@10", False),
        "Missed@10": ("Missed@10", False),
        f"{module}:Missed@10": ("missed@10", False),
    }.items():
        config = {"metrics": names, "topk": [10], "valid_metric": written}
        settings = validation_settings(config)
        assert settings == {"valid_metric": recorded, "valid_metric_bigger": bigger}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Foo", r"There is no metric named 'Foo'; use some of averagepopularity"),
        ("ndgc", r"There is no metric named 'ndgc' \(did you mean ndcg\?\); use some of"),
        ("RMSE", "The metric RMSE cannot be computed from a full ranking; use some of"),
        ("AUC", "The metric AUC cannot be computed from a full ranking"),
        ("{}:Recall", "is called 'recall', as one of this package or of RecBole is"),
        ("{}:Odd", "is called 'a b'; use letters"),
        ("{}:Unfinished", "Unfinished does not define gain; add that method"),
        ("{}:five", "is neither a function nor a RankMetric"),
        ("{}:Nothing", "has no 'Nothing'"),
        ("nothing_there:Nothing", "no module 'nothing_there' for the metric"),
    ],
)
def test_what_is_no_metric_is_refused(module: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        find(name.format(module))
    assert str(caught.value).endswith(".")


def test_two_metrics_of_one_name_are_refused(module: str, tmp_path: Path) -> None:
    (tmp_path / "metrics_of_a_third.py").write_text(SOURCE)
    first, other = f"{module}:First", "metrics_of_a_third:First"
    assert len(MetricSet.of([first, first, "recall", "Recall"], [10]).metrics) == 2
    with pytest.raises(ConfigError, match=f"Two metrics are called 'first'; give {other}"):
        MetricSet.of([first, other], [10])


class Broken(ListMetric):
    """A metric that is not finite."""

    def value(self, lists: RecommendedLists) -> float:
        return float("nan")


class Uneven(UserListMetric):
    """A metric with too few values."""

    def per_list(self, lists: RecommendedLists) -> np.ndarray:
        return np.ones(len(lists.items) - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lists: MetricSet((Broken(),), (2,)).of_lists(lists), "broken@2 must give 1 finite"),
        (lambda lists: MetricSet((Uneven(),), (2,)).per_user(lists=lists), "uneven@2 must give 5"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    lists: RecommendedLists, call: Callable[[RecommendedLists], object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        call(lists)


def test_a_function_is_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"functions_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "def Podium(places, k):\n    return (places <= 3).astype(float)\nclass Greedy:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    metric = find(f"{name}:Podium")
    ranks = Ranks(*(np.array(column) for column in ([0, 1, 2], [0, 2, 3], [0, 0, 2], [9, 9, 9])))
    assert metric.name == "podium"
    assert isinstance(metric, RankMetric)
    # Ranked first, third, and among the three places from the fourth on.
    np.testing.assert_allclose(metric.per_user(ranks, 10), [1.0, 1.0, 0.0])
    with pytest.raises(ConfigError, match="is neither a function nor a RankMetric"):
        find(f"{name}:Greedy")
