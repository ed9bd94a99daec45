"""A benchmark's kept runs beside figures that were published: the paper's, and those of others.

Every function makes one :class:`Sheet` of the methods of one dataset.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd

from recbole_hellm.benchmark.methods import Method
from recbole_hellm.benchmark.paper import OTHERS
from recbole_hellm.benchmark.plans.benchmarks import paper_masking
from recbole_hellm.benchmark.plans.shapes import Table
from recbole_hellm.reporting.evidence import PLUS_MINUS, short, told, value_row
from recbole_hellm.reporting.numbers import number, signed, spread, undefined
from recbole_hellm.reporting.sheets import Cell, Sheet


def sheets(table: Table, methods: Sequence[Method]) -> list[Sheet]:
    """All sheets of this module that have figures for the methods and their dataset.

    There are none under another protocol than the default one, which all published figures have.
    """
    if methods[0].runs[0].record.get("protocol"):
        return []
    made = (beside_the_paper(table, methods), beside_others(table, methods))
    return [sheet for sheet in made if sheet is not None]


def beside_the_paper(table: Table, methods: Sequence[Method]) -> Sheet | None:
    """Each method under the paper's masking beside the paper's figure, and the difference.

    None where the paper has no figure for any of them.
    """
    dataset = str(methods[0].runs[0].record["dataset"])
    if not any(table.figures(method.name, dataset) for method in methods):
        return None
    rows, data = [], []
    for method in methods:
        masking, printed = (
            paper_masking(table.paths.get(method.name, method.name)),
            table.figures(method.name, dataset),
        )
        cells: list[Cell | str] = [method.name, masking, str(len(method.runs))]
        for metric in table.metrics:
            values, figure = method.values(metric, masking), printed.get(metric)
            difference = None if figure is None else float(values.mean()) - figure
            cells += [spread(values), number(figure), signed(difference)]
            row = value_row(method, metric, masking, values)
            data.append(row | {"paper": figure, "difference": difference})
        rows.append(cells)
    head = ["", "masked", "seeds"]
    for metric in table.metrics:
        head += [short(table, metric), "paper", "Δ"]
    notes = [
        PLUS_MINUS,
        *told(table, methods),
        *undefined(row["mean"] for row in data),
        "Masked is what the ranking leaves out: the paper masks training items for general "
        "recommenders and nothing for language models.",
    ]
    title = f"{table.title}: {dataset}, beside the paper"
    return Sheet("paper", title, head, rows, notes, pd.DataFrame(data))


def beside_others(table: Table, methods: Sequence[Method]) -> Sheet | None:
    """What others published for the same split, and each family's reference under both maskings.

    None for a table without such figures, and where others published none for the dataset.
    """
    dataset = str(methods[0].runs[0].record["dataset"])
    figures = [row for row in OTHERS if dataset in row.figures] if table.others else []
    if not figures:
        return None
    rows: list[list[Cell | str]] = []
    data = []
    for row in figures:
        printed = row.figures[dataset]
        cells = (number(printed.get(metric)) for metric in table.metrics)
        rows.append([row.name, row.masking or "not told", row.selected, *cells])
        data += [
            {"method": row.name, "masking": row.masking, "metric": metric, "mean": value}
            for metric, value in printed.items()
        ]
    references = {family.reference for family in table.families}
    ours = (method for method in methods if method.name in references)
    for method, masking in itertools.product(ours, ("seen", "none")):
        values = {metric: method.values(metric, masking) for metric in table.metrics}
        described = [f"{method.name}, here", masking, "by validation"]
        rows.append([*described, *map(spread, values.values())])
        data += [
            {"method": method.name, "masking": masking, "metric": metric, "mean": of.mean()}
            for metric, of in values.items()
        ]
    head = ["", "masked", "selected", *(short(table, metric) for metric in table.metrics)]
    notes = [PLUS_MINUS, "All but the last rows are their authors' or reproducers' own figures."]
    title = f"{table.title}: {dataset}, beside what others published for the same split"
    return Sheet("published", title, head, rows, notes, pd.DataFrame(data))
