"""What a benchmark's kept runs show: results, significance, groups of users, lists.

Every function makes one :class:`Sheet` of the methods of one dataset.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.benchmark.methods import Method
from recbole_hellm.benchmark.plans.shapes import Family, Table
from recbole_hellm.benchmark.records import SLICED
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.list_metrics import LIST_METRICS
from recbole_hellm.evaluation.metric import Metric
from recbole_hellm.evaluation.significance import PairedComparison, compare_to_rest, leaders
from recbole_hellm.evaluation.user_values import mean_interval, seed_deviation
from recbole_hellm.reporting.costs import cost_columns, cost_notes
from recbole_hellm.reporting.headers import counted, ending, policy, row_notes
from recbole_hellm.reporting.numbers import (
    LEVEL,
    number,
    p_value,
    signed,
    spread,
    undefined,
    written,
)
from recbole_hellm.reporting.sheets import Cell, Sheet

BETTER, WORSE = "†", "‡"
SLICED_METRIC = "ndcg@10"
GROUPINGS = {
    "history_length": "by the number of training interactions",
    "target_popularity": "by the popularity of the test item",
    "target_warmth": "by how often the test item was trained on (cold never, few under 5 times)",
    "target_ties": "by whether the rule for equal times chose the test item",
}

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
        (metric, name): _mark(comparison, table.metric(metric).bigger_is_better)
        for comparisons in tests
        for metric, others in comparisons.items()
        for name, comparison in others.items()
    }
    places = {
        metric: _places(
            table, {m.name: float(m.values(metric, masking).mean()) for m in methods}, metric
        )
        for metric in table.shown
    }
    costs = cost_columns(methods)
    rows, data = [], []
    for method in methods:
        cells: list[Cell | str] = [method.name, str(len(method.runs))]
        for metric in table.shown:
            values = method.values(metric, masking)
            best, second = (method.name in group for group in places[metric])
            mark = marks.get((metric, method.name), "")
            cells.append(Cell(spread(values) + mark, best, second))
            data.append(value_row(method, metric, masking, values))
        rows.append([*cells, *(show(method) for show in costs.values())])
    notes = [_counted(methods[0], masking), PLUS_MINUS, *told(table, methods)]
    notes += _marked(table, methods, tests)
    notes += undefined(row["mean"] for row in data)
    notes += [*cost_notes(methods), *absent]
    head = ["", "seeds", *(short(table, metric) for metric in table.shown), *costs]
    record = methods[0].runs[0].record
    title = f"{table.title}: {record['dataset']}, {policy(record, masking)}"
    notes += row_notes((method.name, run.record) for method in methods for run in method.runs)
    return Sheet("results", title, head, rows, notes, pd.DataFrame(data))


def validation(table: Table, methods: Sequence[Method]) -> Sheet:
    """Validation metrics of all methods at their best epochs, under the runs' own masking.

    A metric that a run did not compute in validation is left out.
    """
    record = methods[0].runs[0].record
    masking = record["masking"]
    of_runs = [run.metrics(masking, "valid") for method in methods for run in method.runs]
    shown = [metric for metric in table.shown if all(metric in values for values in of_runs)]
    rows: list[list[Cell | str]] = []
    data = []
    for method in methods:
        cells: list[Cell | str] = [method.name, str(len(method.runs))]
        for metric in shown:
            values = method.values(metric, masking, "valid")
            cells.append(spread(values))
            data.append({"method": method.name, "metric": metric, "mean": values.mean()})
        rows.append(cells)
    head = ["", "seeds", *(short(table, metric) for metric in shown)]
    title = f"{table.title}: {record['dataset']}, validation, {policy(record, masking)}"
    notes = [PLUS_MINUS, "Epochs and settings were chosen by these figures, not by those on test."]
    return Sheet("validation", title, head, rows, notes, pd.DataFrame(data))


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
        comparisons = {
            metric: compare_to_rest(
                {method.name: method.per_user(metric, masking) for method in members},
                family.reference,
                "two-sided",
                metric=metric,
            )
            for metric in table.shown
            if all(method.has_users(metric, masking) for method in members)
        }
        tests.append(comparisons)
        sheets.append(_significance(table, family, comparisons, members[0], masking))
    return tests, sheets


def _significance(
    table: Table, family: Family, comparisons: Comparisons, any_: Method, masking: str
) -> Sheet:
    rows, data = [], []
    for metric, others in comparisons.items():
        for name, c in others.items():
            rows.append(
                [
                    name,
                    short(table, metric),
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
    pairs = {(c.seeds_a, c.seeds_b) for others in comparisons.values() for c in others.values()}
    if any(ours != theirs for ours, theirs in pairs):
        notes.append(
            "Where one side has more seeds, Wilcoxon's test and the rank-biserial correlation take "
            "as many of each, the first ones."
        )
    if len(pairs) > 1:
        notes.append("d_z is larger with more seeds, so it compares rows of as many seeds.")
    smaller = [metric for metric in comparisons if not table.metric(metric).bigger_is_better]
    if smaller:
        names = ", ".join(short(table, metric) for metric in smaller)
        notes.append(f"Of {names} less is better, so a gain is a difference below zero.")
    record = any_.runs[0].record
    title = f"{family.reference} against each: {record['dataset']}, {masking} masked"
    title += ending(record)
    return Sheet(f"tests-{family.reference}", title, head, rows, notes, pd.DataFrame(data))


def sliced_metrics(table: Table) -> list[str]:
    """The metrics that are shown by groups of users: of those asked for, each at its first k."""
    by_user = {key: metric for key, metric in table.asked.items() if metric.over_users}
    first: dict[str, str] = {}
    for key, metric in by_user.items():
        if metric not in SLICED.metrics:
            first.setdefault(metric.name, key)
    return [SLICED_METRIC, *first.values()]


def slices(
    table: Table,
    methods: Sequence[Method],
    grouping: str,
    masking: str,
    metric: str = SLICED_METRIC,
) -> Sheet | None:
    """One metric by groups of users: where a method's lead comes from.

    None where a record does not have a metric that the user asks for.
    """
    frames = [
        run.slices().assign(method=method.name, seed=run.seed)
        for method in methods
        for run in method.runs
    ]
    if metric != SLICED_METRIC and not all(metric in set(frame["metric"]) for frame in frames):
        return None
    data = pd.concat(frames, ignore_index=True)
    data = data[data["grouping"].eq(grouping) & data["masking"].eq(masking)]
    shown = data[data["metric"] == metric]
    if not len(shown) and methods[0].runs[0].record.get("protocol", {}).get("split"):
        return None  # with several targets a user, users have no group by target
    groups = shown.drop_duplicates("group")[["group", "users"]]
    means = shown.groupby(["method", "group"])["value"].mean()
    for method, group in itertools.product(methods, groups["group"]):
        if (method.name, group) not in means:
            raise RunError(
                f"{method.runs[0].path}/slices.csv lacks the group '{group}' of {grouping}; "
                f"{method.runs[0].directory.way_out}."
            )
    places = {
        group: _places(table, {m.name: means[m.name, group] for m in methods}, metric)
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
    what = f"{short(table, metric)} {GROUPINGS[grouping]}"
    what += ending(methods[0].runs[0].record)
    name = f"by-{grouping}" + ("" if metric == SLICED_METRIC else f"-{metric.partition('@')[0]}")
    notes = [_counted(methods[0], masking), "In brackets, a group's users; means over seeds."]
    return Sheet(name, what, head, rows, notes, data.reset_index(drop=True))


def all_slices(table: Table, methods: Sequence[Method], masking: str) -> list[Sheet | None]:
    """:func:`slices` by each grouping, of each metric of :func:`sliced_metrics`."""
    return [
        slices(table, methods, grouping, masking, metric)
        for metric in sliced_metrics(table)
        for grouping in GROUPINGS
    ]


def lists(methods: Sequence[Method], asked: Sequence[Metric] = (), k: int = 10) -> Sheet | None:
    """What the recommended lists are like; None where no run kept its lists.

    A method without lists has dashes; so has a metric that was not measured, such as diversity
    where there are no item features. Metrics that the user asks for have columns, too.
    """
    by_run = {method.name: [run.lists() for run in method.runs] for method in methods}
    if not any(all(of_runs) for of_runs in by_run.values()):
        return None
    shown = [metric for metric in LIST_METRICS if metric.column]
    columns: dict[str, Metric] = {metric.name: metric for metric in (*shown, *asked)}
    rows, data = [], []
    for name, of_runs in by_run.items():
        common = [key for key in of_runs[0] if all(key in values for values in of_runs)]
        means = {key: float(np.mean([values[key] for values in of_runs])) for key in common}
        data += [{"method": name, "metric": key, "value": value} for key, value in means.items()]
        cells = (written(means.get(f"{key}@{k}"), metric.spec) for key, metric in columns.items())
        rows.append([name, *cells])
    masking = methods[0].runs[0].record["masking"]
    notes = [
        f"Lists of {k} items under {policy(methods[0].runs[0].record, masking)}; "
        "docs/statistics.md defines the columns."
    ]
    head = ["", *(metric.head for metric in columns.values())]
    title = f"What is recommended{ending(methods[0].runs[0].record)}"
    return Sheet("lists", title, head, rows, notes, pd.DataFrame(data))


def short(table: Table, metric: str) -> str:
    """``R@10`` for ``recall@10``."""
    return f"{table.metric(metric).head}@{metric.partition('@')[2]}"


PLUS_MINUS = "± is the standard deviation over seeds, where there are several."


def told(table: Table, methods: Sequence[Method]) -> Sequence[str]:
    """A table's own notes, where they are true of the runs that are shown."""
    planned = [(method, table.settings.get(method.name, {})) for method in methods]
    runs = [(run, given) for method, given in planned if given for run in method.runs]
    return table.notes if runs and all(run.has(given) for run, given in runs) else ()


def _counted(method: Method, masking: str) -> str:
    record = method.runs[0].record
    return (
        f"{counted(record)}, split {record['split'][:12]}, {policy(record, masking)}, "
        "epochs chosen by validation."
    )


def value_row(method: Method, metric: str, masking: str, values: np.ndarray) -> dict[str, Any]:
    low = high = float("nan")
    if method.has_users(metric, masking):
        low, high = mean_interval(method.per_user(metric, masking))
    return {
        "dataset": method.runs[0].record["dataset"],
        "masking": masking,
        "method": method.name,
        "metric": metric,
        "mean": float(values.mean()),
        "std": seed_deviation(values),
        "seeds": " ".join(map(str, method.seeds)),
        "users_ci_low": low,
        "users_ci_high": high,
    }


def _marked(table: Table, methods: Sequence[Method], tests: Sequence[Comparisons]) -> list[str]:
    """What the marks mean, and which are not there."""
    tested = {
        family.reference: next(iter(next(iter(comparisons.values())).values())).family
        for family, comparisons in zip(table.families, tests, strict=True)
        if comparisons
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


def _places(table: Table, means: Mapping[str, float], metric: str) -> tuple[set[str], set[str]]:
    """The best and the second best methods of all families; a family is a contest of its own."""
    bigger = table.metric(metric).bigger_is_better
    placed = [
        leaders(
            {name: means[name] for name in family.models if np.isfinite(means.get(name, np.nan))},
            bigger,
        )
        for family in table.families
    ]
    best, second = (set().union(*names) for names in zip(*placed, strict=True))
    return best, second


def _mark(comparison: PairedComparison, bigger_is_better: bool) -> str:
    if comparison.p_t_holm >= LEVEL:
        return ""
    return BETTER if (comparison.difference > 0) == bigger_is_better else WORSE
