"""Plots of benchmarks as SVG files, each with its data beside it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from recbole_hellm.benchmark.methods import Method
from recbole_hellm.benchmark.plans.shapes import Figure, Panel
from recbole_hellm.evaluation.metrics import BUILT_IN
from recbole_hellm.evaluation.user_values import seed_deviation
from recbole_hellm.reporting.costs import training_time
from recbole_hellm.storage.files import write_bytes, write_text

_PROGRAM = __name__.partition(".")[0]
# Texts stay texts, and the same data give the same file.
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": _PROGRAM, "font.size": 9}
_COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#8a3f8f")
_MARKS = ("o", "s", "^", "D")
# Heights of names above their points, in points, nearest first.
_STEPS = ((4, -12), (14, -22), (24, -32), (34, -42))


def quality_and_cost(methods: Sequence[Method], metric: str, masking: str, path: Path) -> Path:
    """Write :func:`cost_chart` and its data."""
    return _write(*cost_chart(methods, metric, masking), path)


def cost_chart(methods: Sequence[Method], metric: str, masking: str) -> tuple[Canvas, pd.DataFrame]:
    """Quality over the time of training, stages included, a point a method; with the data.

    Bars are one standard deviation over seeds, where there are several; a line says so. Where
    methods were trained on several kinds of hardware, whose times do not compare, colours and
    marks tell them apart.
    """
    rows, key = [], training_time(methods)
    protocol = methods[0].runs[0].record.get("protocol", {})
    sampled = ", SAMPLED candidates" if "candidates" in protocol else ""
    for method in methods:
        seconds = method.cost(key, "cost_with_stages")
        if seconds is None:
            continue
        values = method.values(metric, masking)
        deviation = seed_deviation(values)
        mean = float(values.mean())
        rows.append((method.name, seconds / 60, mean, deviation, method.hardware))
    data = pd.DataFrame(rows, columns=["method", "minutes", metric, "std", "hardware"])
    kinds = sorted(set(data["hardware"]))
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(6.4, 4.2), layout="constrained")
        axes = canvas.add_subplot()
        for _, minutes, value, deviation, hardware in rows:
            bar = None if np.isnan(deviation) else deviation
            kind = kinds.index(hardware)
            colour, mark = _COLOURS[kind % len(_COLOURS)], _MARKS[kind % len(_MARKS)]
            axes.errorbar(
                minutes, value, yerr=bar, fmt=mark, color=colour, capsize=2, label=hardware
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        unit = "processor minutes" if key == "train_cpu_seconds" else "minutes"
        axes.set_xlabel(f"{unit} of training, stages included")
        axes.set_ylabel(f"{named(metric)}, {masking} items masked{sampled}")
        axes.grid(alpha=0.25)
        axes.margins(x=0.15, y=0.15)
        if len(kinds) > 1:
            handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
            axes.legend(handles.values(), handles.keys(), fontsize=8, loc="lower left")
        else:
            data = data.drop(columns="hardware")
        _name(axes, {name: (minutes, value) for name, minutes, value, *_ in rows})
        if data["std"].notna().any():
            axes.set_title("bars: one standard deviation over seeds", fontsize=8, loc="right")
    return canvas, data


def _name(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside points, where there is room, in a place that no other name or point has.

    A line leads to a name that is not beside its point.
    """
    places = {
        name: axes.transData.transform(point) * 72 / axes.figure.dpi
        for name, point in sorted(points.items(), key=lambda item: item[1])
    }
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in places.values()]
    for name, (x, y) in places.items():
        width = 5.5 * len(name)  # about, in points
        sides = (5, -5 - width)
        for right, up in itertools.chain(*(itertools.product(sides, step) for step in _STEPS)):
            place = Bbox.from_bounds(x + right, y + up, width, 9)
            if not any(place.overlaps(other) for other in taken):
                break
        taken.append(place)
        side = "left" if right > 0 else "right"
        offset = (5 if right > 0 else -5, up)
        line = {"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            name,
            points[name],
            offset,
            textcoords="offset points",
            ha=side,
            arrowprops=line if abs(up) > 12 else None,
        )


def sweep(
    figure: Figure, results: pd.DataFrame, path: Path, defaults: Mapping[str, Any] | None = None
) -> Path:
    """Write :func:`sweep_chart` and its data."""
    return _write(sweep_chart(figure, results, defaults), results, path)


def sweep_chart(
    figure: Figure, results: pd.DataFrame, defaults: Mapping[str, Any] | None = None
) -> Canvas:
    """A figure over settings: a line for each metric, or a map of two settings.

    Parameters
    ----------
    figure : Figure
    results : DataFrame
        A row a run: ``panel``, the panel's settings, ``seed``, and a column for each metric of the
        figure. Lines are means over seeds.
    defaults : mapping, optional
        Setting -> value that is marked.
    """
    flat = all(len(panel.axes) == 1 for panel in figure.panels)
    columns = 2 if flat and len(figure.panels) > 1 else 1
    lines = -(-len(figure.panels) // columns)
    with matplotlib.rc_context(_STYLE):
        width, height = (4.0, 2.7) if flat else (5.4, 4.2)
        canvas = Canvas(figsize=(width * columns, height * lines), layout="constrained")
        for place, panel in enumerate(figure.panels):
            axes = canvas.add_subplot(lines, columns, place + 1)
            of_panel = results[results["panel"] == panel.title]
            draw = _lines if len(panel.axes) == 1 else _map
            draw(axes, panel, of_panel, figure.metrics, defaults or {})
        if flat:
            handles = [
                Line2D([], [], marker="o", markersize=4, color=colour, label=named(metric))
                for metric, colour in zip(figure.metrics, _COLOURS, strict=False)
            ]
            canvas.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return canvas


def _lines(
    axes: Any,
    panel: Panel,
    results: pd.DataFrame,
    metrics: Sequence[str],
    defaults: Mapping[str, Any],
) -> None:
    """Each metric over one setting; the second one has its scale on the right."""
    ((key, values),) = panel.axes.items()
    positions = np.arange(len(values))
    for number, metric in enumerate(metrics):
        scale = axes if number == 0 else axes.twinx()
        means = results.groupby(key)[metric].mean().reindex(list(values))
        scale.plot(positions, means, marker="o", markersize=4, color=_COLOURS[number])
        scale.tick_params(axis="y", colors=_COLOURS[number])
    if defaults.get(key) in values:
        axes.axvline(values.index(defaults[key]), color="grey", linestyle=":", zorder=0)
    axes.set_xticks(positions, [f"{value:g}" for value in values])
    axes.set_xlabel(panel.title)
    axes.grid(alpha=0.25)


def _map(
    axes: Any,
    panel: Panel,
    results: pd.DataFrame,
    metrics: Sequence[str],
    defaults: Mapping[str, Any],
) -> None:
    """The first metric over two settings."""
    (down, rows), (across, columns) = panel.axes.items()
    table = results.pivot_table(index=down, columns=across, values=metrics[0])
    table = table.reindex(index=list(rows), columns=list(columns))
    image = axes.imshow(table, origin="lower", cmap="viridis")
    middle = float(np.nanmean(table)) if np.isfinite(table.to_numpy()).any() else 0.0
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if np.isfinite(value):
            shade = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.4f}"[1:], ha="center", va="center", color=shade)
    if defaults.get(down) in rows and defaults.get(across) in columns:
        corner = columns.index(defaults[across]) - 0.5, rows.index(defaults[down]) - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2))
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    first, _, second = panel.title.partition(" x ")
    axes.set_xlabel(second)
    axes.set_ylabel(first)
    axes.figure.colorbar(image, ax=axes, label=named(metrics[0]))


def named(metric: str) -> str:
    """``Recall@20`` for ``recall@20``."""
    name, _, k = metric.partition("@")
    return f"{type(BUILT_IN[name]).__name__ if name in BUILT_IN else name}@{k}"


def as_svg(canvas: Canvas) -> bytes:
    """The same file for the same chart."""
    metadata: Mapping[str, Any] = {"Date": None, "Creator": _PROGRAM}
    drawn = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        canvas.savefig(drawn, format="svg", metadata=metadata)
    return drawn.getvalue()


def _write(canvas: Canvas, data: pd.DataFrame, path: Path) -> Path:
    write_bytes(path, as_svg(canvas))
    write_text(path.with_suffix(".csv"), data.to_csv(index=False, float_format="%.8g"))
    return path
