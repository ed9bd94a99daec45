from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from recbole_hellm.benchmark.methods import methods
from recbole_hellm.benchmark.records import Record
from recbole_hellm.errors import RunError

Make = Callable[..., Record]


def test_values_over_seeds_and_users(
    make_kept: Make, good: Sequence[int], poor: Sequence[int]
) -> None:
    runs = [make_kept("A", poor, seed=2), make_kept("A", good, seed=1)]
    (method,) = methods({"A": runs, "B": []})
    assert method.seeds == (1, 2)
    expected = np.array([[rank < 10 for rank in ranks] for ranks in (good, poor)], dtype=float)
    np.testing.assert_array_equal(method.per_user("recall@10", "seen"), expected)
    np.testing.assert_allclose(method.values("recall@10", "seen"), expected.mean(axis=1))
    moved = np.array([1 / np.log2(2 + rank + 2) if rank + 2 < 10 else 0 for rank in poor])
    np.testing.assert_allclose(method.per_user("ndcg@10", "none")[1], moved)
    assert method.cost("test_seconds") == 1.25
    assert method.cost("train_cpu_seconds", "cost_with_stages") == 190.0
    assert method.cost("nothing") is None


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("split", "x" * 64, r"splits .*\(ssssssssssss… and xxxxxxxxxxxx…\)"),
        ("candidates", "y" * 64, "sets of candidate items"),
        ("masking", "none", r"masking policies .* \(seen and none\)"),
        ("users", 59, "numbers of test users"),
        ("items", 99, "numbers of candidate items"),
        ("features", {"text": "bert"}, "item features"),
        ("protocol", {"split": "temporal"}, r"protocols \(the default and split=temporal\)"),
        (
            "protocol",
            {"candidates": "uniform-100"},
            "protocols .* and candidates=uniform-100, SAMP",
        ),
    ],
)
def test_what_was_measured_otherwise_is_refused(
    make_kept: Make, good: Sequence[int], field: str, value: object, what: str
) -> None:
    runs = {"A": [make_kept("A", good)], "B": [make_kept("B", good, **{field: value})]}
    with pytest.raises(RunError, match=rf"A/.* and .*B/.* have different {what}.*leave one out\.$"):
        methods(runs)


def test_methods_without_features_go_with_those_that_have_them(
    make_kept: Make, good: Sequence[int]
) -> None:
    runs = {"A": [make_kept("A", good, features=None)], "B": [make_kept("B", good)]}
    assert [method.name for method in methods(runs)] == ["A", "B"]
