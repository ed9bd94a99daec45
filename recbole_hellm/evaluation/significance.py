"""Whether one method is better than another, tested over users.

A user is the sampling unit: each brings one value per method, the mean over the method's seeds, and
methods are compared on the same users. RecBole's ``significance_test.py`` pairs seeds instead, of
which there are few, and asks for ``alternative="less"``, so that its small p-values say that one's
own model is worse.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from scipy import stats

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.evaluation.user_values import DECIMALS, bootstrap_interval, by_seed

Alternative = Literal["greater", "two-sided"]


@dataclasses.dataclass(frozen=True)
class PairedComparison:
    """Method A against method B on one metric.

    Attributes
    ----------
    metric : str
        Whatever the caller calls it, for example ``ndcg@10``.
    alternative : {"greater", "two-sided"}
        What the p-values test: A is better, or A and B differ.
    users, seeds_a, seeds_b : int
    mean_a, mean_b, difference : float
        Means over users and seeds; ``difference = mean_a - mean_b``.
    level, ci_low, ci_high : float
        Two-sided bootstrap interval of the difference, whatever `alternative` is.
    p_t, p_wilcoxon : float
        Paired t test, and Wilcoxon's signed-rank test.
    d_z : float
        Cohen's effect size: mean over standard deviation of the differences.
    rank_biserial : float
        Matched-pairs rank-biserial correlation in [-1, 1]; 1 where every change is a gain.
    zeros : int
        Users without a difference in the signed-rank test.
    p_seeds : float
        Welch's t test over seeds; NaN with a single seed on a side.
    p_t_holm, p_wilcoxon_holm, p_seeds_holm : float
        Adjusted for a family of `family` comparisons, those of seeds for the ones that have any.
    family : int
    """

    metric: str
    alternative: Alternative
    users: int
    seeds_a: int
    seeds_b: int
    mean_a: float
    mean_b: float
    difference: float
    level: float
    ci_low: float
    ci_high: float
    p_t: float
    p_wilcoxon: float
    d_z: float
    rank_biserial: float
    zeros: int
    p_seeds: float
    p_t_holm: float
    p_wilcoxon_holm: float
    p_seeds_holm: float
    family: int = 1


def compare_pairs(
    a: np.ndarray,
    b: np.ndarray,
    alternative: Alternative = "greater",
    *,
    metric: str = "",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    r"""Compare two methods over users.

    With :math:`d_u = \bar a_u - \bar b_u`, where a bar is a mean over seeds:

    - t: :math:`t = \bar d \sqrt U / s_d`, the paired t test.
    - Wilcoxon: :math:`|d_u|` are ranked, zeros among them, and :math:`W^\pm` sum the ranks of gains
      and losses (Pratt 1959, ``zero_method="pratt"``); normal approximation with corrections for
      zeros (Cureton 1967) and ties, none for continuity. ``zsplit`` would take its variance as if
      zeros had random signs, and with nine zeros in ten hardly ever reject.
    - Seeds: Welch's t test of the runs' means over all users, :math:`S_a` against :math:`S_b`. Not
      paired, so it is conservative for methods that share a stage at each seed.
    - :math:`d_z = \bar d / s_d` (Cohen 1988); :math:`r = (W^+ - W^-) / (W^+ + W^-)` (Kerby 2014).

    The tests over users are about the models as trained: they generalise to other users, not to
    other seeds. That over seeds generalises to other seeds, for these users.
    Averaging over more seeds makes a user's value less noisy and leaves its expectation as it is,
    so the t test and the interval use all seeds, also where A has more than B. The signed-rank test
    asks whether differences are symmetric around zero, which those of means over three seeds and
    one are not: it would find equally good methods different. So it takes the first
    min(S_a, S_b) seeds of each, as does everything that is made of its ranks.

    Parameters
    ----------
    a, b : ndarray, shape [U] or [S_a, U] and [S_b, U]
        Values by user (and seed), the same users in the same order. The tests take higher values
        for better; where lower ones are, a difference below zero is a gain.
    alternative : {"greater", "two-sided"}
        ``greater`` tests that A is better than B.
    metric : str
    level : float
        Of the interval.
    resamples, seed : int
        Of the bootstrap.

    Raises
    ------
    ConfigError
        If `alternative`, `level` or `resamples` is out of range.
    DataError
        If the users differ in number or are fewer than two, or a value is not finite.

    Examples
    --------
    >>> a, b = np.array([1.0, 0.5, 0.0, 1.0]), np.array([0.5, 0.5, 0.0, 0.0])
    >>> compared = compare_pairs(a, b, metric="ndcg@10")
    >>> compared.difference, compared.zeros, compared.rank_biserial
    (0.375, 2, 1.0)
    """
    if alternative not in get_args(Alternative):
        raise ConfigError(f"alternative={alternative!r} is neither 'greater' nor 'two-sided'.")
    ours, theirs = by_seed(a), by_seed(b)
    if ours.shape[1] != theirs.shape[1]:
        raise DataError(
            f"A paired test needs the same users, not {ours.shape[1]} and {theirs.shape[1]}."
        )
    seeds = min(len(ours), len(theirs))
    differences = _differences(ours, theirs)
    matched = _differences(ours[:seeds], theirs[:seeds])
    low, high = bootstrap_interval(differences, level, resamples, seed)
    p_t, p_wilcoxon = _p_t(differences, alternative), _p_wilcoxon(matched, alternative)
    p_seeds = _p_seeds(ours.mean(axis=1), theirs.mean(axis=1), alternative)
    return PairedComparison(
        metric=metric,
        alternative=alternative,
        users=len(differences),
        seeds_a=len(ours),
        seeds_b=len(theirs),
        mean_a=float(ours.mean()),
        mean_b=float(theirs.mean()),
        difference=float(differences.mean()),
        level=level,
        ci_low=low,
        ci_high=high,
        p_t=p_t,
        p_wilcoxon=p_wilcoxon,
        d_z=_d_z(differences),
        rank_biserial=_rank_biserial(matched),
        zeros=int((matched == 0).sum()),
        p_seeds=p_seeds,
        p_t_holm=p_t,
        p_wilcoxon_holm=p_wilcoxon,
        p_seeds_holm=p_seeds,
    )


def compare_to_rest(
    values: Mapping[str, np.ndarray],
    reference: str,
    alternative: Alternative = "greater",
    *,
    metric: str = "",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, PairedComparison]:
    """Compare `reference`, as method A, with each other method; p-values adjusted over these.

    Parameters
    ----------
    values : mapping of str to ndarray
        By method, as in :func:`compare_pairs`, which has the other parameters too.
    reference : str

    Returns
    -------
    dict of str to PairedComparison
        By the other method's name, in the order of `values`.

    Raises
    ------
    ConfigError
        If `reference` is not in `values`, or as in :func:`compare_pairs`.
    DataError
        As in :func:`compare_pairs`.
    """
    if reference not in values:
        raise ConfigError(f"'{reference}' is none of the methods {', '.join(values)}.")
    comparisons = {
        name: compare_pairs(
            values[reference],
            other,
            alternative,
            metric=metric,
            level=level,
            resamples=resamples,
            seed=seed,
        )
        for name, other in values.items()
        if name != reference
    }
    p_t, p_wilcoxon, p_seeds = (
        _holm_of_known([getattr(comparison, key) for comparison in comparisons.values()])
        for key in ("p_t", "p_wilcoxon", "p_seeds")
    )
    return {
        name: dataclasses.replace(
            comparison,
            p_t_holm=float(p_t[place]),
            p_wilcoxon_holm=float(p_wilcoxon[place]),
            p_seeds_holm=float(p_seeds[place]),
            family=len(comparisons),
        )
        for place, (name, comparison) in enumerate(comparisons.items())
    }


def leaders(means: Mapping[str, float], bigger_is_better: bool = True) -> tuple[set[str], set[str]]:
    """Names of the best and of the second best; several where they are equal.

    There is no second best beside several best ones, and none where all are equal or, of a metric
    of which more is better, where nothing is above zero.
    """
    values = sorted(set(means.values()), reverse=bigger_is_better)
    groups = [{name for name, value in means.items() if value == of} for of in values]
    if len(groups) < 2:
        return set(), set()
    shown = len(groups[0]) == 1 and (values[1] > 0 or not bigger_is_better)
    return groups[0], groups[1] if shown else set()


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    r"""p-values adjusted by Holm's step-down procedure, in the given order.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`, the i-th becomes
    :math:`\max_{j \le i} \min(1, (m - j + 1) p_{(j)})`: rejecting those below a level keeps the
    chance of any false rejection below it, however the tests depend on each other (Holm 1979).
    """
    if len(p_values) == 0:
        return np.empty(0)
    # Deferred: it takes a second to import.
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1]


def _holm_of_known(p_values: Sequence[float]) -> np.ndarray:
    """Holm's procedure over those that are not NaN, which stay what they are."""
    adjusted = np.array(p_values)
    known = ~np.isnan(adjusted)
    adjusted[known] = holm(adjusted[known])
    return adjusted


def _differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours.mean(axis=0) - theirs.mean(axis=0)).round(DECIMALS)


def _p_t(differences: np.ndarray, alternative: Alternative) -> float:
    if np.ptp(differences) == 0:  # t is 0/0 or infinite
        shift = differences[0] if alternative == "greater" else abs(differences[0])
        return 0.0 if shift > 0 else 1.0
    return float(stats.ttest_1samp(differences, 0.0, alternative=alternative).pvalue)


def _p_wilcoxon(differences: np.ndarray, alternative: Alternative) -> float:
    if not differences.any():
        return 1.0
    return float(
        stats.wilcoxon(
            differences,
            zero_method="pratt",
            correction=False,
            alternative=alternative,
            method="approx",
        ).pvalue
    )


def _p_seeds(ours: np.ndarray, theirs: np.ndarray, alternative: Alternative) -> float:
    if min(len(ours), len(theirs)) < 2:
        return math.nan
    ours, theirs = ours.round(DECIMALS), theirs.round(DECIMALS)
    if np.ptp(ours) == np.ptp(theirs) == 0:
        return math.nan
    a, b = ((values.mean(), values.std(ddof=1), len(values)) for values in (ours, theirs))
    # From summaries: the other form warns where one side does not depend on its seed.
    test = stats.ttest_ind_from_stats(*a, *b, equal_var=False, alternative=alternative)
    return float(test.pvalue)


def _d_z(differences: np.ndarray) -> float:
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if np.ptp(differences) == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / deviation


def _rank_biserial(differences: np.ndarray) -> float:
    ranks = stats.rankdata(np.abs(differences)) * np.sign(differences)
    total = np.abs(ranks).sum()
    return float(ranks.sum() / total) if total else 0.0
