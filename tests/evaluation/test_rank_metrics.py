"""Metrics of ranks against RecBole's classes, and against every order of tied candidates."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from recbole.evaluator import metrics as theirs

from recbole_hellm.evaluation.metric import RankMetric
from recbole_hellm.evaluation.metrics import MetricSet
from recbole_hellm.evaluation.rank_metrics import RANK_METRICS, Recall
from recbole_hellm.evaluation.ranking import Ranks, count_above


def test_metrics_are_recboles_where_nothing_is_tied() -> None:
    rng = np.random.default_rng(2)
    higher = rng.integers(0, 40, 200)
    ranks = Ranks(np.arange(200), higher, np.zeros(200, int), np.full(200, 50))
    topk = (1, 5, 10, 20)
    config = {"topk": topk, "metric_decimal_place": 12}
    placed = np.arange(20) == higher[:, None]
    data = {"rec.topk": torch.from_numpy(np.c_[placed, np.ones(200)].astype(np.int64))}
    ours = MetricSet(RANK_METRICS, topk).of_ranks(ranks)
    wanted: dict[str, float] = {}
    for name in ("Recall", "NDCG", "MRR", "Hit", "MAP", "Precision"):
        wanted.update(getattr(theirs, name)(config).calculate_metric(data))
    assert ours.keys() == wanted.keys()
    for key, value in wanted.items():
        assert abs(ours[key] - value) < 1e-10
    assert len(ours) == 24


# Several targets -------------------------------------------------------------------------------


def written_out(metric: str, found: list[bool], k: int) -> float:
    """A metric of one ranking, by RecBole's definitions; `found` tells which places hit."""
    places = [place for place, hit in enumerate(found, 1) if hit]
    first = [place for place in places if place <= k]
    if metric == "recall":
        return len(first) / len(places)
    if metric == "precision":
        return len(first) / k
    if metric == "hit":
        return float(bool(first))
    if metric == "mrr":
        return 1 / first[0] if first else 0.0
    most = min(len(places), k)
    if metric == "map":
        return sum(number / place for number, place in enumerate(first, 1)) / most
    ideal = sum(1 / math.log2(place + 1) for place in range(1, most + 1))
    return sum(1 / math.log2(place + 1) for place in first) / ideal


def mean_over_orders(
    scores: list[float], targets: set[int], hidden: set[int], metric: str, k: int
) -> float:
    """Mean of a metric over every order of the candidates that sorting by score allows."""
    candidates = [i for i in range(1, len(scores)) if i in targets or i not in hidden]
    groups = [
        [i for i in candidates if scores[i] == value]
        for value in sorted({scores[i] for i in candidates}, reverse=True)
    ]
    values = []
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        ranking = [item for order in orders for item in order]
        values.append(written_out(metric, [item in targets for item in ranking], k))
    return math.fsum(values) / len(values)


@pytest.fixture(scope="module")
def several() -> tuple[torch.Tensor, list[set[int]], list[set[int]]]:
    """Scores of 7 items with many ties, targets and known items of each row, which overlap."""
    rng = np.random.default_rng(5)
    scores = torch.from_numpy(rng.integers(0, 3, (14, 8)).astype(np.float64))
    scores[:, 0] = 9
    scores[0, 1:] = 1  # all tied
    scores[1, 1:] = torch.arange(7)  # none tied
    scores[2, 1:] = torch.tensor([-math.inf, 0, math.inf, 0, -math.inf, math.inf, 1])
    targets = [{int(i) for i in rng.choice(7, rng.integers(1, 6), False) + 1} for _ in scores]
    hidden = [{int(i) for i in rng.choice(7, rng.integers(0, 5), False) + 1} for _ in scores]
    return scores, targets, hidden


def counted(
    scores: torch.Tensor, targets: list[set[int]], hidden: list[set[int]]
) -> tuple[Ranks, Ranks]:
    """Ranks with and without `hidden`, of as many users as there are rows."""
    owners = [row for row, items in enumerate(targets) for _ in items]
    items = [item for chosen in targets for item in chosen]
    pairs = [(row, item) for row, chosen in enumerate(hidden) for item in chosen]
    known = torch.tensor(pairs + pairs[:3]).T  # pairs may repeat
    empty = torch.empty(2, 0, dtype=torch.int64)
    rows = np.array(owners)
    masked, plain = (
        Ranks(rows, *(count.numpy() for count in counts), rows=rows)
        for counts in count_above(
            scores, torch.tensor(items), [tuple(known), tuple(empty)], torch.tensor(owners)
        )
    )
    return masked, plain


@pytest.mark.parametrize("metric", RANK_METRICS, ids=lambda metric: metric.name)
def test_several_targets_equal_the_mean_over_all_orders(
    several: tuple[torch.Tensor, list[set[int]], list[set[int]]], metric: RankMetric
) -> None:
    scores, targets, hidden = several
    nothing: list[set[int]] = [set() for _ in targets]
    for ranks, left_out in zip(counted(*several), (hidden, nothing), strict=True):
        for k in (1, 2, 3, 5, 7):
            wanted = [
                mean_over_orders(scores[row].tolist(), targets[row], left_out[row], metric.name, k)
                for row in range(len(scores))
            ]
            found = metric.of_users(ranks, k)
            assert found == pytest.approx(wanted, abs=1e-12)


def test_one_target_a_row_is_the_special_case(
    several: tuple[torch.Tensor, list[set[int]], list[set[int]]],
) -> None:
    scores, targets, hidden = several
    single = [{min(items)} for items in targets]
    ranks, _ = counted(scores, single, hidden)
    alone = dataclasses.replace(ranks, rows=None)
    for metric in RANK_METRICS:
        for k in (1, 3, 7):
            found = metric.of_users(ranks, k)
            assert found == pytest.approx(metric.per_user(alone, k), abs=1e-12)


def test_candidates_are_counted_with_the_other_targets(
    several: tuple[torch.Tensor, list[set[int]], list[set[int]]],
) -> None:
    _, targets, hidden = several
    ranks, plain = counted(*several)
    assert plain.candidates.tolist() == [7] * len(plain.users)
    assert ranks.rows is not None
    assert ranks.candidates.tolist() == [
        7 - len(hidden[row] - targets[row]) for row in ranks.rows.tolist()
    ]


def test_a_users_rows_are_averaged_before_users_are() -> None:
    """User 4 has two rows, of one and of two targets; user 6 has one."""
    ranks = Ranks(
        np.array([4, 4, 4, 6]),
        np.array([0, 0, 3, 8]),
        np.zeros(4, dtype=np.int64),
        np.full(4, 9),
        rows=np.array([0, 1, 1, 2]),
    )
    recall = Recall()
    assert recall.per_row(ranks, 2).tolist() == [1, 0.5, 0]
    assert recall.of_users(ranks, 2).tolist() == [0.75, 0]
    assert MetricSet((recall,), (2,)).of_ranks(ranks) == {"recall@2": 0.375}
    assert ranks.user_ids.tolist() == [4, 6]


def test_metrics_of_others_are_means_over_targets() -> None:
    class Wide(RankMetric):
        def gain(self, places: np.ndarray, k: int) -> np.ndarray:
            return 1 - places / 10

        def per_user(self, ranks: Ranks, k: int) -> np.ndarray:
            return super().per_user(ranks, k) / ranks.candidates

    ranks = Ranks(
        np.array([1, 1, 2]),
        np.array([0, 2, 1]),
        np.array([0, 1, 0]),
        np.array([5, 5, 4]),
        rows=np.array([0, 0, 1]),
    )
    wanted = [((1 - 0.1) / 5 + (1 - 0.35) / 5) / 2, (1 - 0.2) / 4]
    assert Wide().of_users(ranks, 4) == pytest.approx(wanted)


def test_ranks_beyond_what_records_keep_are_worth_nothing() -> None:
    """Several targets of a row may be kept as having as many items above them, without ties."""
    ranks = Ranks(
        np.zeros(3, dtype=np.int64),
        np.array([1, 255, 255]),
        np.zeros(3, dtype=np.int64),
        np.zeros(3, dtype=np.int64),
        rows=np.zeros(3, dtype=np.int64),
    )
    found = {metric.name: float(metric.of_users(ranks, 10)[0]) for metric in RANK_METRICS}
    wanted = {name: written_out(name, [n in (1, 98, 99) for n in range(100)], 10) for name in found}
    assert found == pytest.approx(wanted)
