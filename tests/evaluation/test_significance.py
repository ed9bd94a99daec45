from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW, ttest_ind

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.evaluation.rank_metrics import NDCG
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.significance import (
    compare_pairs,
    compare_to_rest,
    holm,
    leaders,
)


def ndcg(rng: np.random.Generator, taste: np.ndarray, better: float = 0.0) -> np.ndarray:
    """Per-user NDCG@10 of a model that places targets by taste and luck, with some ties."""
    higher = np.exp(taste - better + rng.normal(0, 0.8, len(taste))).astype(np.int64)
    tied = np.where(rng.random(len(taste)) < 0.05, rng.integers(1, 40, len(taste)), 0)
    users = np.arange(len(taste))
    return NDCG().per_user(Ranks(users, higher, tied, np.full(len(taste), 10_000)), 10)


def tastes(rng: np.random.Generator, users: int) -> np.ndarray:
    return rng.normal(5, 2, users)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A better and a worse method on 500 users, most of whom both fail."""
    rng = np.random.default_rng(0)
    taste = tastes(rng, 500)
    return ndcg(rng, taste, 0.5), ndcg(rng, taste)


def signed_ranks(differences: np.ndarray) -> np.ndarray:
    """Each difference's sign times the mean rank of its size, zeros ranked too, by loops."""
    sizes = [abs(value) for value in differences]
    ranks = [
        sum(other < size for other in sizes) + (sum(other == size for other in sizes) + 1) / 2
        for size in sizes
    ]
    return np.sign(differences) * ranks


@pytest.mark.parametrize(
    ("alternative", "larger"), [("greater", "larger"), ("two-sided", "two-sided")]
)
def test_t_is_that_of_statsmodels_and_scipy(
    pair: tuple[np.ndarray, np.ndarray], alternative: str, larger: str
) -> None:
    a, b = pair
    found = compare_pairs(a, b, alternative)  # type: ignore[arg-type]
    assert found.p_t == pytest.approx(DescrStatsW(a - b).ttest_mean(0, larger)[1], rel=1e-9)
    assert found.p_t == pytest.approx(stats.ttest_rel(a, b, alternative=alternative).pvalue)
    assert 0 < found.p_t < 0.05


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_wilcoxon_is_the_normal_approximation_of_random_signs(
    pair: tuple[np.ndarray, np.ndarray], alternative: str
) -> None:
    a, b = pair
    ranks = signed_ranks((a - b).round(12))
    # Under the null the sign of each nonzero difference is a coin; zeros have none.
    z = ranks.sum() / math.sqrt((ranks**2).sum())
    wanted = stats.norm.sf(z) if alternative == "greater" else 2 * stats.norm.sf(abs(z))
    found = compare_pairs(a, b, alternative)  # type: ignore[arg-type]
    assert found.p_wilcoxon == pytest.approx(wanted, rel=1e-9)
    assert found.zeros == int((ranks == 0).sum()) > 250
    assert found.rank_biserial == pytest.approx(ranks.sum() / np.abs(ranks).sum())


def test_wilcoxon_is_near_the_exact_test_where_nothing_is_tied() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.random(30) + 0.1, rng.random(30)
        exact = stats.wilcoxon(a, b, alternative="greater", method="exact").pvalue
        assert compare_pairs(a, b).p_wilcoxon == pytest.approx(exact, abs=0.01)


def test_p_values_are_near_those_of_all_sign_flips() -> None:
    differences = np.array([0.0, 0.0, 0.3, 0.3, -0.1, 0.5, 0.63, -0.2, 0.0, 1.0, 0.43, 0.3, 0.2])
    ranks = signed_ranks(differences)
    moved = np.flatnonzero(differences)
    flips = np.array(list(itertools.product([-1, 1], repeat=len(moved))))
    found = compare_pairs(differences, np.zeros(13))
    for values, p in ((differences, found.p_t), (ranks, found.p_wilcoxon)):
        totals = flips @ np.abs(values[moved])
        assert p == pytest.approx((totals >= values.sum() - 1e-9).mean(), abs=0.01)


@pytest.mark.filterwarnings("error")
def test_seeds_are_tested_by_welch() -> None:
    rng = np.random.default_rng(8)
    users = rng.random(40)
    ours = users + np.array([[0.02], [0.05], [0.03]])
    theirs = users + np.array([[0.0], [0.01]])
    for alternative, name in (("greater", "larger"), ("two-sided", "two-sided")):
        found = compare_pairs(ours, theirs, alternative)  # type: ignore[arg-type]
        means = ours.mean(axis=1), theirs.mean(axis=1)
        wanted = ttest_ind(*means, alternative=name, usevar="unequal")[1]
        assert found.p_seeds == found.p_seeds_holm == pytest.approx(wanted, rel=1e-9)
    # By hand: t = (m - n) / sqrt(s^2 / 3 + r^2 / 2).
    s, r = np.var([0.02, 0.05, 0.03], ddof=1) / 3, np.var([0.0, 0.01], ddof=1) / 2
    freedom = (s + r) ** 2 / (s**2 / 2 + r**2 / 1)
    t = (np.mean([0.02, 0.05, 0.03]) - 0.005) / np.sqrt(s + r)
    assert found.p_seeds == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9)
    for lone in (compare_pairs(ours[0], theirs), compare_pairs(ours, theirs[:1])):
        assert np.isnan([lone.p_seeds, lone.p_seeds_holm]).all()
    assert np.isnan(compare_pairs(ours[[0, 0, 0]], theirs[[1, 1]]).p_seeds)  # seeds change nothing
    # Where they change one side alone, it is a test of one sample.
    fixed = compare_pairs(ours, theirs[[0, 0, 0]], "two-sided").p_seeds
    wanted = stats.ttest_1samp(ours.mean(axis=1), theirs[0].mean()).pvalue
    assert fixed == pytest.approx(wanted, rel=1e-6)


def test_seeds_are_adjusted_among_the_methods_that_have_several() -> None:
    rng = np.random.default_rng(9)
    values = {name: rng.random((seeds, 30)) for name, seeds in (("a", 3), ("b", 1), ("c", 3))}
    values["d"] = values["a"] - np.array([[0.1], [0.11], [0.12]])
    found = compare_to_rest(values, "a", "two-sided")
    known = [found[name].p_seeds for name in ("c", "d")]
    assert [found[name].p_seeds_holm for name in ("c", "d")] == holm(known).tolist()
    assert np.isnan(found["b"].p_seeds_holm)
    assert found["b"].p_t_holm >= found["b"].p_t


def test_the_right_direction(pair: tuple[np.ndarray, np.ndarray]) -> None:
    better, worse = pair
    found, swapped = compare_pairs(better, worse), compare_pairs(worse, better)
    assert max(found.p_t, found.p_wilcoxon) < 0.01
    assert min(swapped.p_t, swapped.p_wilcoxon) > 0.99
    assert found.difference == -swapped.difference > 0
    assert 0 < found.ci_low < found.difference < found.ci_high
    assert (swapped.ci_low, swapped.ci_high) == pytest.approx(
        (-found.ci_high, -found.ci_low), abs=2e-3
    )
    assert found.d_z == -swapped.d_z > 0
    assert found.rank_biserial == -swapped.rank_biserial > 0
    both = compare_pairs(worse, better, "two-sided")
    assert both.p_t == pytest.approx(2 * found.p_t)
    assert both.p_wilcoxon == pytest.approx(2 * found.p_wilcoxon)


def test_what_a_comparison_tells(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    found = compare_pairs(a, b, metric="ndcg@10", level=0.9, resamples=500)
    assert (found.metric, found.level, found.users) == ("ndcg@10", 0.9, 500)
    assert (found.mean_a, found.mean_b) == pytest.approx((a.mean(), b.mean()))
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.d_z == pytest.approx((a - b).mean() / np.std(a - b, ddof=1))
    assert (found.p_t_holm, found.p_wilcoxon_holm) == (found.p_t, found.p_wilcoxon)
    assert (found.seeds_a, found.seeds_b, found.family) == (1, 1, 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_equal_methods_differ_by_nothing(alternative: str) -> None:
    for values in (np.zeros(5), np.array([0.1, 0.4, 0.4, 1.0])):
        found = compare_pairs(values, values, alternative)  # type: ignore[arg-type]
        assert (found.p_t, found.p_wilcoxon) == (1.0, 1.0)
        assert (found.difference, found.ci_low, found.ci_high) == (0.0, 0.0, 0.0)
        assert (found.d_z, found.rank_biserial, found.zeros) == (0.0, 0.0, len(values))


@pytest.mark.filterwarnings("error")
def test_the_same_gain_for_everyone() -> None:
    b = np.linspace(0, 0.6, 12)
    a = b + 0.3
    gain, loss = compare_pairs(a, b), compare_pairs(b, a)
    assert (gain.p_t, loss.p_t, compare_pairs(b, a, "two-sided").p_t) == (0.0, 1.0, 0.0)
    assert (gain.d_z, loss.d_z) == (math.inf, -math.inf)
    assert (gain.ci_low, gain.ci_high) == pytest.approx((0.3, 0.3))
    assert gain.p_wilcoxon < 0.05 < loss.p_wilcoxon


def test_seeds_are_averaged_for_each_user_first() -> None:
    rng = np.random.default_rng(2)
    taste = tastes(rng, 300)
    a, b = (np.stack([ndcg(rng, taste, by) for _ in range(3)]) for by in (0.3, 0.0))
    found, wanted = compare_pairs(a, b), compare_pairs(a.mean(0), b.mean(0))
    assert (found.seeds_a, found.seeds_b) == (3, 3)
    assert (found.p_t, found.p_wilcoxon) == pytest.approx((wanted.p_t, wanted.p_wilcoxon))
    assert (found.ci_low, found.ci_high) == (wanted.ci_low, wanted.ci_high)


def test_the_order_of_seeds_makes_no_difference() -> None:
    a = np.array([[0.1, 1.0], [0.2, 0.5], [0.3, 0.0]])
    assert a.mean(0)[0] != a[::-1].mean(0)[0]  # by rounding
    found = compare_pairs(a, a[::-1])
    assert (found.p_t, found.p_wilcoxon, found.zeros) == (1.0, 1.0, 2)


def test_the_signed_rank_test_takes_equally_many_seeds() -> None:
    rng = np.random.default_rng(3)
    taste = tastes(rng, 300)
    a, b = (np.stack([ndcg(rng, taste) for _ in range(seeds)]) for seeds in (3, 2))
    found, same = compare_pairs(a, b), compare_pairs(a[:2], b)
    assert (found.p_wilcoxon, found.zeros) == (same.p_wilcoxon, same.zeros)
    assert found.rank_biserial == same.rank_biserial
    assert found.p_t == pytest.approx(
        stats.ttest_rel(a.mean(0), b.mean(0), alternative="greater").pvalue
    )
    assert (found.seeds_a, found.seeds_b) == (3, 2)


@pytest.mark.parametrize("seeds", [(1, 1), (3, 1)])
def test_true_hypotheses_are_rejected_at_the_level(seeds: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    repetitions, rejected, missed = 400, np.zeros(2), 0
    for repetition in range(repetitions):
        taste = tastes(rng, 800)
        a, b = (np.stack([ndcg(rng, taste) for _ in range(number)]) for number in seeds)
        found = compare_pairs(a, b, resamples=1000, seed=repetition)
        rejected += np.array([found.p_t, found.p_wilcoxon]) < 0.05
        missed += not found.ci_low <= 0 <= found.ci_high
    error = math.sqrt(0.05 * 0.95 / repetitions)
    shares = np.array([*rejected, missed]) / repetitions
    assert shares == pytest.approx([0.05] * 3, abs=3 * error)


def test_why_zeros_are_not_split_and_seeds_are_matched() -> None:
    """What the signed-rank test would do otherwise, of two methods that are equally good."""
    rng = np.random.default_rng(5)
    split, unmatched = [], []
    for _ in range(200):
        taste = tastes(rng, 800)
        a, b = np.stack([ndcg(rng, taste) for _ in range(3)]), ndcg(rng, taste)
        for found, values, zeros in ((split, a[0], "zsplit"), (unmatched, a.mean(0), "pratt")):
            differences = (values - b).round(12)
            found.append(
                stats.wilcoxon(
                    differences, zero_method=zeros, alternative="greater", method="approx"
                ).pvalue
            )
    assert np.mean(np.array(split) < 0.05) < 0.03
    assert np.mean(np.array(unmatched) < 0.05) > 0.3


@pytest.mark.parametrize(
    "p_values",
    [[0.01, 0.04, 0.03, 0.005], [0.5], [0.9, 0.8, 1.0], [0.02, 0.02, 0.02], [0.0, 0.5, 1e-9]],
)
def test_holm_is_the_step_down_procedure(p_values: list[float]) -> None:
    count = len(p_values)
    adjusted = holm(p_values)
    for level in (0.001, 0.01, 0.05, 0.06, 0.1, 0.5, 0.95):
        rejected = set()
        for step, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
            if p_values[place] > level / (count - step):
                break
            rejected.add(place)
        assert {place for place in range(count) if adjusted[place] <= level} == rejected


def test_holm_over_nothing() -> None:
    assert holm([]).tolist() == []


def test_a_reference_is_compared_with_each_other_method() -> None:
    rng = np.random.default_rng(5)
    taste = tastes(rng, 400)
    values = {name: ndcg(rng, taste, by) for name, by in {"b": 0.1, "a": 0.4, "c": 0.0}.items()}
    found = compare_to_rest(values, "a", metric="ndcg@10", resamples=300, seed=3)
    assert list(found) == ["b", "c"]
    raw = {
        name: compare_pairs(values["a"], values[name], metric="ndcg@10", resamples=300, seed=3)
        for name in found
    }
    for name in ("p_t", "p_wilcoxon"):  # of one seed each
        wanted = holm([getattr(raw[other], name) for other in found])
        assert [getattr(found[other], f"{name}_holm") for other in found] == wanted.tolist()
    for name, comparison in found.items():
        assert comparison.family == 2
        assert (comparison.p_t, comparison.ci_low) == (raw[name].p_t, raw[name].ci_low)
        assert comparison.p_t_holm >= comparison.p_t
    assert compare_to_rest({"a": taste}, "a") == {}
    with pytest.raises(ConfigError, match="'x' is none of the methods b, a, c"):
        compare_to_rest(values, "x")


@pytest.mark.parametrize(
    ("means", "best", "second"),
    [
        ({"A": 0.5, "B": 0.3, "C": 0.1}, {"A"}, {"B"}),
        ({"A": 0.5, "B": 0.5, "C": 0.1}, {"A", "B"}, set()),
        ({"A": 0.5, "B": 0.3, "C": 0.3}, {"A"}, {"B", "C"}),
        ({"A": 0.5, "B": 0.0}, {"A"}, set()),
        ({"A": 0.5, "B": 0.5}, set(), set()),
        ({"A": 0.5}, set(), set()),
    ],
)
def test_the_best_and_the_second_best(
    means: dict[str, float], best: set[str], second: set[str]
) -> None:
    assert leaders(means) == (best, second)


def test_the_least_is_best_where_less_is_better() -> None:
    means = {"A": 0.5, "B": 0.0, "C": -0.2, "D": -0.2}
    assert leaders(means, bigger_is_better=False) == ({"C", "D"}, set())
    del means["D"]
    assert leaders(means, bigger_is_better=False) == ({"C"}, {"B"})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: compare_pairs(np.ones(3), np.ones(4)), DataError, "not 3 and 4"),
        (lambda: compare_pairs(np.ones(1), np.ones(1)), DataError, r"not \(1,\)"),
        (lambda: compare_pairs(np.ones((2, 2, 2)), np.ones(2)), DataError, r"not \(2, 2, 2\)"),
        (lambda: compare_pairs(np.ones(3), np.ones(3), "less"), ConfigError, "'less'"),  # type: ignore[arg-type]
    ],
)
def test_mistakes(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
