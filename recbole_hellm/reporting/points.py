"""A figure's points as a table: the results of its runs, and what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from recbole_hellm.benchmark.methods import check_comparable
from recbole_hellm.benchmark.plans.benchmarks import paper_masking
from recbole_hellm.benchmark.plans.shapes import Figure
from recbole_hellm.benchmark.records import Record
from recbole_hellm.reporting.headers import ending
from recbole_hellm.reporting.numbers import undefined
from recbole_hellm.reporting.sheets import Sheet

Points = Sequence[tuple[Mapping[str, Any], Record]]
"""Panel and settings of a point, and its run."""


def results(figure: Figure, runs: Points) -> pd.DataFrame:
    """A row a run: panel, settings, seed, test metrics, and the same metrics on validation.

    Settings that no run has are columns, too.

    Raises
    ------
    RunError
        If the runs cannot be compared.
    """
    masking = paper_masking(figure.model)
    check_comparable([run for _, run in runs])
    rows = []
    for point, run in runs:
        run_masking = run.record["masking"]
        valid = {f"valid {key}": run.metric(key, run_masking, "valid") for key in figure.metrics}
        test = {metric: run.metric(metric, masking) for metric in figure.metrics}
        rows.append({**point, "seed": run.seed, **test, **valid})
    axes = dict.fromkeys(key for panel in figure.panels for key in panel.axes)
    last = [*figure.metrics, *(f"valid {key}" for key in figure.metrics)]
    return pd.DataFrame(rows).reindex(columns=["panel", *axes, "seed", *last])


def sheet(figure: Figure, dataset: str, runs: Points, notes: Sequence[str] = ()) -> Sheet:
    """The points as a table, with `notes` of its own."""
    data = results(figure, runs)
    head = [*map(str, data.columns)]
    rows = [
        [_cell(key, value) for key, value in zip(head, row, strict=True)]
        for row in data.itertuples(index=False)
    ]
    masking = paper_masking(figure.model)
    all_notes = [
        f"Test metrics under mask_history={masking}, epochs chosen by validation.",
        *_exemptions(figure, runs),
        "Plots mark the settings that hold elsewhere, the defaults if nothing else was given.",
        *undefined(data[[key for key in head if "@" in key]].to_numpy().ravel()),
        *notes,
    ]
    title = f"{figure.title}: {dataset}{ending(runs[0][1].record)}"
    return Sheet("points", title, head, rows, all_notes, data)


def _cell(key: str, value: Any) -> str:
    if value != value:  # the setting of another panel
        return ""
    if "@" in key:
        return f"{value:.4f}"
    return value if isinstance(value, str) else f"{value:g}"


def _exemptions(figure: Figure, runs: Points) -> list[str]:
    """Notes on a figure's exemptions, where they are true of runs that are shown."""
    notes = []
    for exemption in figure.exempt:
        covered = [run for point, run in runs if exemption.covers(point)]
        if covered and all(run.has(exemption.settings) for run in covered):
            notes.append(exemption.note)
    return notes
