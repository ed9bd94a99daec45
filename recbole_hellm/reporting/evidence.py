"""What a benchmark's kept runs show: results, the paper's figures, significance, slices, lists.

Every function makes one :class:`Sheet` of the methods of one dataset.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.benchmark.methods import Method
from recbole_hellm.benchmark.plans import Family, Table, paper_masking
from recbole_hellm.benchmark.records import SLICES
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.significance import (
    PairedComparison,
    compare_to_rest,
    leaders,
    mean_interval,
)
from recbole_hellm.reporting.costs import cost_columns, cost_notes
from recbole_hellm.reporting.sheets import Cell, Sheet

LEVEL = 0.05
BETTER, WORSE = "†", "‡"
SLICED_METRIC = "ndcg@10"
GROUPINGS = {
    "history_length": "by the number of training interactions",
    "target_popularity": "by the popularity of the test item",
    "target_warmth": "by how often the test item was trained on (cold never, few under 5 times)",
    "target_ties": "by whether the rule for equal times chose the test item",
}
_SHORT = {"recall": "R", "ndcg": "N", "mrr": "MRR", "hit": "HR"}

Comparisons = Mapping[str, Mapping[str, PairedComparison]]
"""metric -> other method -> the reference against it."""


def results(
    table: Table,
    methods: Sequence[Method],
    masking: str,
    tests: Sequence[Comparisons],
    absent: Sequence[str] = (),
) -> Sheet:
    """Test metrics of all methods under one masking, with cost and marks.

    Parameters
    ----------
    table : Table
    methods : sequence of Method
    masking : str
    tests : sequence
        For each family of the table, in its order.
    absent : sequence of str
        Notes on runs that are wanted and not there.
    """
    marks = {
        (metric, name): _mark(comparison)
        for of in tests
        for metric, others in of.items()
        for name, comparison in others.items()
    }
    places = {
        metric: _places(table, {m.name: float(m.values(metric, masking).mean()) for m in methods})
        for metric in table.metrics
    }
    costs = cost_columns(methods)
    rows, data = [], []
    for method in methods:
        cells: list[Cell | str] = [method.name, str(len(method.runs))]
        for metric in table.metrics:
            values = method.values(metric, masking)
            best, second = (method.name in group for group in places[metric])
            mark = marks.get((metric, method.name), "")
            cells.append(Cell(spread(values) + mark, best, second))
            data.append(_row(method, metric, masking, values))
        rows.append([*cells, *(show(method) for show in costs.values())])
    notes = [_counted(methods[0], masking), _PLUS_MINUS, *_told(table, methods)]
    notes += _marked(table, methods, tests)
    notes += [*cost_notes(methods), *absent]
    head = ["", "seeds", *map(short, table.metrics), *costs]
    title = f"{table.title}: {methods[0].runs[0].record['dataset']}, mask_history={masking}"
    return Sheet("results", title, head, rows, notes, pd.DataFrame(data))


def beside_the_paper(table: Table, methods: Sequence[Method]) -> Sheet | None:
    """Each method under the paper's masking beside the paper's figure, and the difference.

    None where the paper has no figure for any of them.
    """
    dataset = str(methods[0].runs[0].record["dataset"])
    if not any(table.figures(method.name, dataset) for method in methods):
        return None
    rows, data = [], []
    for method in methods:
        masking, printed = paper_masking(method.name), table.figures(method.name, dataset)
        cells: list[Cell | str] = [method.name, masking, str(len(method.runs))]
        for metric in table.metrics:
            values, figure = method.values(metric, masking), printed.get(metric)
            difference = None if figure is None else float(values.mean()) - figure
            cells += [spread(values), number(figure), signed(difference)]
            row = _row(method, metric, masking, values)
            data.append(row | {"paper": figure, "difference": difference})
        rows.append(cells)
    head = ["", "masked", "seeds"]
    for metric in table.metrics:
        head += [short(metric), "paper", "Δ"]
    notes = [
        _PLUS_MINUS,
        *_told(table, methods),
        "Masked is what the ranking leaves out: the paper masks training items for general "
        "recommenders and nothing for language models.",
    ]
    title = f"{table.title}: {dataset}, beside the paper"
    return Sheet("paper", title, head, rows, notes, pd.DataFrame(data))


def tested(
    table: Table, methods: Sequence[Method], masking: str
) -> tuple[list[Comparisons], list[Sheet]]:
    """Each family's reference against its other methods, over users.

    Returns
    -------
    tests : list
        By family; empty for one whose reference, or everything else, has no runs.
    sheets : list of Sheet
    """
    tests: list[Comparisons] = []
    sheets = []
    for family in table.families:
        members = [method for method in methods if method.name in family.models]
        names = [method.name for method in members]
        if family.reference not in names or len(members) < 2:
            tests.append({})
            continue
        found = {
            metric: compare_to_rest(
                {method.name: method.per_user(metric, masking) for method in members},
                family.reference,
                "two-sided",
                metric=metric,
            )
            for metric in table.metrics
        }
        tests.append(found)
        sheets.append(_significance(family, found, members[0], masking))
    return tests, sheets


def _significance(family: Family, found: Comparisons, any_: Method, masking: str) -> Sheet:
    rows, data = [], []
    for metric, others in found.items():
        for name, c in others.items():
            rows.append(
                [
                    name,
                    short(metric),
                    f"{c.seeds_a} / {c.seeds_b}",
                    signed(c.difference),
                    f"{signed(c.ci_low)} to {signed(c.ci_high)}",
                    p_value(c.p_t_holm),
                    p_value(c.p_wilcoxon_holm),
                    p_value(c.p_seeds_holm),
                    f"{c.d_z:+.3f}".replace("-", "−"),
                    f"{c.rank_biserial:+.3f}".replace("-", "−"),
                ]
            )
            data.append(
                {"reference": family.reference, "other": name, "masking": masking}
                | dataclasses.asdict(c)
            )
    head = ["against", "metric", "seeds", "difference", "95 % interval", "p (t)", "p (Wilcoxon)"]
    head += ["p (seeds)", "d_z", "rank-biserial"]
    notes = [
        _counted(any_, masking),
        "Differences are the reference's less the other's, means over seeds paired by user, with a "
        "bootstrap interval over users; p-values are two-sided and adjusted by Holm within a "
        "metric. Those of t and Wilcoxon are over users, for the models as trained; that of seeds "
        "is Welch's t test over seeds, where both sides have several.",
    ]
    pairs = {(c.seeds_a, c.seeds_b) for others in found.values() for c in others.values()}
    if any(ours != theirs for ours, theirs in pairs):
        notes.append(
            "Where one side has more seeds, Wilcoxon's test and the rank-biserial correlation take "
            "as many of each, the first ones."
        )
    if len(pairs) > 1:
        notes.append("d_z is larger with more seeds, so it compares rows of as many seeds.")
    title = f"{family.reference} against each: {any_.runs[0].record['dataset']}, {masking} masked"
    return Sheet(f"tests-{family.reference}", title, head, rows, notes, pd.DataFrame(data))


def slices(table: Table, methods: Sequence[Method], grouping: str, masking: str) -> Sheet:
    """One metric by groups of users: where a method's lead comes from."""
    frames = [
        run.slices().assign(method=method.name, seed=run.seed)
        for method in methods
        for run in method.runs
    ]
    data = pd.concat(frames, ignore_index=True)
    data = data[data["grouping"].eq(grouping) & data["masking"].eq(masking)]
    shown = data[data["metric"] == SLICED_METRIC]
    groups = shown.drop_duplicates("group")[["group", "users"]]
    means = shown.groupby(["method", "group"])["value"].mean()
    for method, group in itertools.product(methods, groups["group"]):
        if (method.name, group) not in means:
            raise RunError(
                f"{method.runs[0].path / SLICES} lacks the group '{group}' of {grouping}; restore "
                "the record, or take its folder out."
            )
    places = {
        group: _places(table, {m.name: means[m.name, group] for m in methods})
        for group in groups["group"]
    }
    rows: list[list[Cell | str]] = []
    for method in methods:
        cells: list[Cell | str] = [method.name]
        for group in groups["group"]:
            best, second = (method.name in names for names in places[group])
            cells.append(Cell(number(means[method.name, group]), best, second))
        rows.append(cells)
    head = ["", *(f"{group} ({users:,})" for group, users in groups.itertuples(index=False))]
    what = f"{short(SLICED_METRIC)} {GROUPINGS[grouping]}"
    notes = [_counted(methods[0], masking), "In brackets, a group's users; means over seeds."]
    return Sheet(f"by-{grouping}", what, head, rows, notes, data.reset_index(drop=True))


def lists(methods: Sequence[Method], k: int = 10) -> Sheet | None:
    """What the recommended lists are like; None where no run kept its lists.

    A method without lists has dashes; so has a metric that was not measured, such as diversity
    where there are no item features.
    """
    told = {method.name: [run.lists() for run in method.runs] for method in methods}
    if not any(all(of) for of in told.values()):
        return None
    rows, data = [], []
    for name, of in told.items():
        common = [key for key in of[0] if all(key in values for values in of)]
        means = {key: float(np.mean([values[key] for values in of])) for key in common}
        data += [{"method": name, "metric": key, "value": value} for key, value in means.items()]
        found = [(means.get(f"{key}@{k}"), show) for key, show in _LISTS.values()]
        rows.append([name, *("–" if value is None else show(value) for value, show in found)])
    masking = methods[0].runs[0].record["masking"]
    notes = [
        f"Lists of {k} items under mask_history={masking}; docs/statistics.md defines the columns."
    ]
    head = ["", *_LISTS]
    return Sheet("lists", "What is recommended", head, rows, notes, pd.DataFrame(data))


# How figures are written -------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Four decimals without the leading zero; a dash for what there is not."""
    return "–" if value is None else f"{value:.4f}".replace("0.", ".", 1)


def signed(value: float | None) -> str:
    """The same with its sign."""
    if value is None:
        return "–"
    text = number(abs(value))
    return text if set(text) <= set(".0") else ("+" if value > 0 else "−") + text


def spread(values: np.ndarray) -> str:
    """Mean and, for several seeds, their standard deviation."""
    mean = number(float(values.mean()))
    return mean if len(values) < 2 else f"{mean} ± {number(float(values.std(ddof=1)))}"


def p_value(value: float) -> str:
    """Three decimals, more of what would be rounded to the level, or that it is less."""
    if np.isnan(value):
        return "–"
    if value < 0.001:
        return "<.001"
    text = f"{value:.3f}" if round(value, 3) != LEVEL or value >= LEVEL else f"{value:.5f}"
    return text.replace("0.", ".", 1)


def short(metric: str) -> str:
    """``R@10`` for ``recall@10``."""
    name, _, k = metric.partition("@")
    return f"{_SHORT.get(name, name)}@{k}"


_LISTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "coverage": ("itemcoverage", number),
    "Gini": ("giniindex", number),
    "entropy, bits": ("entropy", lambda value: f"{value:.2f}"),
    "novelty, bits": ("novelty", lambda value: f"{value:.2f}"),
    "diversity": ("diversity", number),
    "mean popularity": ("averagepopularity", lambda value: f"{value:.1f}"),
    "popularity lift": ("popularitylift", lambda value: f"{value:+.2f}"),
    "personalisation": ("personalisation", number),
}
_PLUS_MINUS = "± is the standard deviation over seeds, where there are several."


def _told(table: Table, methods: Sequence[Method]) -> Sequence[str]:
    """A table's own notes, where they are true of the runs that are shown."""
    planned = [(method, table.settings.get(method.name, {})) for method in methods]
    runs = [(run, given) for method, given in planned if given for run in method.runs]
    return table.notes if runs and all(run.has(given) for run, given in runs) else ()


def _counted(method: Method, masking: str) -> str:
    record = method.runs[0].record
    return (
        f"{record['users']:,} test users, {record['items']:,} candidate items, split "
        f"{record['split'][:12]}, mask_history={masking}, epochs chosen by validation."
    )


def _row(method: Method, metric: str, masking: str, values: np.ndarray) -> dict[str, Any]:
    detailed = all(run.detailed for run in method.runs)
    low, high = mean_interval(method.per_user(metric, masking)) if detailed else (float("nan"),) * 2
    return {
        "dataset": method.runs[0].record["dataset"],
        "masking": masking,
        "method": method.name,
        "metric": metric,
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        "seeds": " ".join(map(str, method.seeds)),
        "users_ci_low": low,
        "users_ci_high": high,
    }


def _marked(table: Table, methods: Sequence[Method], tests: Sequence[Comparisons]) -> list[str]:
    """What the marks mean, and which are not there."""
    tested = {
        family.reference: next(iter(next(iter(of.values())).values())).family
        for family, of in zip(table.families, tests, strict=True)
        if of
    }
    several = len(table.families) > 1
    shown = {method.name for method in methods}
    untested = [
        family.reference
        for family in table.families
        if family.reference not in shown and shown & set(family.models)
    ]
    notes = ["Best and second best are those of each family of methods."] if several else []
    if tested:
        who = " or ".join(tested) + (", in its family," if several else "")
        counts = " and ".join(str(count) for count in dict.fromkeys(tested.values()))
        notes.append(
            f"{BETTER}: {who} is better, {WORSE}: it is worse, by a two-sided paired t test over "
            f"users at {LEVEL:.0%}, Holm's correction over the {counts} comparisons of a metric. "
            "The test is about the models as trained; where there are several seeds, another one "
            "over seeds stands with the tests."
        )
    notes += [f"{name} is not shown, so nothing is tested against it." for name in untested]
    return notes


def _places(table: Table, means: Mapping[str, float]) -> tuple[set[str], set[str]]:
    """The best and the second best methods of all families; a family is a contest of its own."""
    found = [
        leaders({name: means[name] for name in family.models if name in means})
        for family in table.families
    ]
    return set().union(*(best for best, _ in found)), set().union(*(second for _, second in found))


def _mark(comparison: PairedComparison) -> str:
    if comparison.p_t_holm >= LEVEL:
        return ""
    return BETTER if comparison.difference > 0 else WORSE
