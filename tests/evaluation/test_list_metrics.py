from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from recbole.evaluator import metrics as theirs
from recbole.evaluator.collector import DataStruct

from recbole_hellm.errors import DataError
from recbole_hellm.evaluation import list_metrics
from recbole_hellm.evaluation.list_metrics import LIST_METRICS, TailPercentage
from recbole_hellm.evaluation.metrics import MetricSet
from recbole_hellm.evaluation.recommended import Catalogue, RecommendedLists

ITEMS, USERS, LENGTH = 40, 25, 6


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    """Lists that favour low ids, counts with items never trained on, features with a zero row."""
    rng = np.random.default_rng(0)
    weights = np.arange(ITEMS, 0, -1) ** 1.5
    lists = np.stack(
        [
            rng.choice(ITEMS, LENGTH, replace=False, p=weights / weights.sum()) + 1
            for _ in range(USERS)
        ]
    )
    lengths = rng.integers(1, 9, USERS)
    rows = np.repeat(np.arange(USERS), lengths)
    items = rng.integers(3, ITEMS + 1, lengths.sum())
    features = rng.normal(size=(ITEMS, 5)).astype(np.float32)
    features[lists[0, 0] - 1] = 0
    counts = np.bincount(items, minlength=ITEMS + 1)
    return {
        "lists": lists,
        "counts": counts,
        "n_users": USERS + 10,
        "histories": (rows, items),
        "features": features,
    }


def every_metric(
    lists: np.ndarray,
    counts: np.ndarray,
    n_users: int,
    histories: tuple[np.ndarray, np.ndarray],
    features: np.ndarray | None = None,
    topk: Sequence[int] = (10,),
) -> dict[str, float]:
    """All metrics of lists, by key."""
    catalogue = Catalogue(counts, n_users, read_features=lambda: features)
    recommended = RecommendedLists(lists, histories, catalogue)
    recommended.check()
    return MetricSet(LIST_METRICS, tuple(topk)).of_lists(recommended)


def slow(case: dict[str, Any], k: int) -> dict[str, float]:
    """Every metric by loops over users and items."""
    lists = [[int(item) for item in row[:k]] for row in case["lists"]]
    count = [int(value) for value in case["counts"]]
    shown = Counter(item for row in lists for item in row)
    places = len(lists) * k
    shares = [n / places for n in shown.values()]
    by_place = sorted([0] + [shown.get(item, 0) for item in range(1, ITEMS + 1)])
    n = ITEMS + 1  # RecBole counts padding
    trained = sorted((c, item) for item, c in enumerate(count) if c)
    tail = [item for _, item in trained[: max(1, len(trained) // 10)]]
    rows, items = case["histories"]
    had = [
        np.mean([count[i] for r, i in zip(rows, items, strict=True) if r == user])
        for user in range(len(lists))
    ]
    liked = [np.mean([count[item] for item in row]) for row in lists]
    novel = [
        -math.log2((count[i] if count[i] else 0.5) / case["n_users"]) for row in lists for i in row
    ]

    def cosine(one: int, other: int) -> float:
        x, y = (case["features"][item - 1].astype(float) for item in (one, other))
        return float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-30))

    wanted = {
        "itemcoverage": len(shown) / n,
        "giniindex": sum((2 * i - n - 1) * p for i, p in enumerate(by_place, 1)) / (n * places),
        "shannonentropy": -sum(p * math.log(p) for p in shares) / len(shown),
        "averagepopularity": np.mean(liked),
        "tailpercentage": np.mean([np.mean([item in tail for item in row]) for row in lists]),
        "entropy": -sum(p * math.log2(p) for p in shares),
        "novelty": np.mean(novel),
        "popularitylift": np.mean(liked) / np.mean(had) - 1,
        "personalisation": np.mean(
            [1 - len({*a} & {*b}) / k for a, b in itertools.combinations(lists, 2)]
        ),
    }
    if k > 1:
        wanted["diversity"] = np.mean(
            [
                np.mean([1 - cosine(a, b) for a, b in itertools.combinations(row, 2)])
                for row in lists
            ]
        )
    return {f"{name}@{k}": float(value) for name, value in wanted.items()}


def test_all_equal_loops(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = slow(case, 1) | slow(case, 3) | slow(case, LENGTH)
    assert every_metric(**case, topk=[1, 3, LENGTH]) == pytest.approx(wanted, abs=1e-6)
    assert len(wanted) == 29
    monkeypatch.setattr(list_metrics, "_CELLS", 4 * LENGTH * 5)  # four lists a chunk
    assert every_metric(**case, topk=[1, 3, LENGTH]) == pytest.approx(wanted, abs=1e-6)
    assert 0 < wanted["tailpercentage@6"] < 1


def test_there_is_no_diversity_without_features(case: dict[str, Any]) -> None:
    found = every_metric(**{**case, "features": None}, topk=[3])
    assert set(slow(case, 3)) - set(found) == {"diversity@3"}


@pytest.mark.parametrize("ratio", [None, 0.5, 2])
def test_tail_is_recboles(case: dict[str, Any], ratio: float | None) -> None:
    config = {"topk": [2, 6], "metric_decimal_place": 12, "tail_ratio": ratio}
    data = DataStruct()
    data.set("rec.items", torch.from_numpy(case["lists"]))
    data.set("data.count_items", {i: int(c) for i, c in enumerate(case["counts"]) if c})
    wanted = theirs.TailPercentage(config).calculate_metric(data)
    catalogue = Catalogue(case["counts"], case["n_users"], tail_ratio=ratio)
    recommended = RecommendedLists(case["lists"], case["histories"], catalogue)
    assert MetricSet((TailPercentage(),), (2, 6)).of_lists(recommended) == pytest.approx(wanted)


def test_extremes() -> None:
    counts, histories = np.array([0, *[3] * 6]), (np.arange(3), np.array([1, 3, 5]))
    same = np.tile([1, 2], (3, 1))
    one = every_metric(same, counts, 3, histories, np.ones((6, 4)), topk=[2])
    assert (one["personalisation@2"], one["entropy@2"], one["novelty@2"]) == (0, 1, 0)
    assert (one["diversity@2"], one["popularitylift@2"]) == pytest.approx((0, 0))
    apart = np.array([[1, 2], [3, 4], [5, 6]])
    other = every_metric(apart, counts, 3, histories, np.eye(6), topk=[2])
    assert (other["entropy@2"], other["diversity@2"]) == pytest.approx((math.log2(6), 1))
    assert other["personalisation@2"] == 1
    # What RecBole calls entropy is lower for the wider lists.
    assert other["shannonentropy@2"] < one["shannonentropy@2"]
    single = every_metric(same[:1], counts, 3, (histories[0][:1], histories[1][:1]), topk=[2])
    assert "personalisation@2" not in single


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lists": np.full((USERS, 6), 41)}, DataError, "item ids 1 to 40"),
        ({"lists": np.zeros((USERS, 6), int)}, DataError, "item ids 1 to 40"),
        ({"features": np.ones((41, 2))}, DataError, "41 rows of features do not fit 40"),
        ({"histories": (np.array([0]), np.array([3]))}, DataError, "history for each list"),
        ({"histories": (np.arange(26), np.ones(26, int))}, DataError, "history for each list"),
    ],
)
def test_mistakes(
    case: dict[str, Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        every_metric(**{"topk": [3], **case, **change})
