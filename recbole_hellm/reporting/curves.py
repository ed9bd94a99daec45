"""Learning curves, metrics and times of runs, drawn."""

from __future__ import annotations

import html
import types
from collections.abc import Mapping

import plotly.graph_objects as go

from recbole_hellm.tracking.curves import Curve

COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#8a3f8f", "#a3791a", "#b03050", "#3c7f8c", "#5b5b5b")
_TEXT, _GRID = "#1d232b", "#e3e6ea"


def metric_bars(
    values: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = types.MappingProxyType({}),
) -> go.Figure:
    """Bars of metrics by run: ``values[run][metric]``, with a whisker for an interval."""
    figure = go.Figure()
    for run, metrics in values.items():
        known = intervals.get(run, {})
        ends = [known.get(name, (value, value)) for name, value in metrics.items()]
        above = [high - value for (_, high), value in zip(ends, metrics.values(), strict=True)]
        below = [value - low for (low, _), value in zip(ends, metrics.values(), strict=True)]
        whiskers = {"array": above, "arrayminus": below, "symmetric": False, "thickness": 1}
        figure.add_bar(
            name=html.escape(run),
            x=list(metrics),
            y=list(metrics.values()),
            error_y={**whiskers, "width": 3, "visible": bool(known)},
            marker_color=colours[run],
            customdata=ends,
            hovertemplate="%{x}: %{y:.4f}"
            + (" (%{customdata[0]:.4f} to %{customdata[1]:.4f})" if known else ""),
        )
    return _styled(figure, 320)


def curve_lines(
    curves: Mapping[str, Curve], colours: Mapping[str, str], best: Mapping[str, int], height: int
) -> go.Figure:
    """A line for each run over epochs; a ring marks the epoch in ``best``."""
    figure = go.Figure()
    for run, curve in curves.items():
        epochs, values = zip(*curve, strict=True)
        chosen = [epoch == best.get(run) for epoch in epochs]
        figure.add_scatter(
            name=html.escape(run),
            x=list(epochs),
            y=list(values),
            mode="lines+markers",
            line={"color": colours[run], "width": 2},
            marker={
                "size": [11 if ring else 4 for ring in chosen],
                "symbol": ["circle-open" if ring else "circle" for ring in chosen],
                "line": {"width": 2, "color": colours[run]},
            },
            hovertemplate="epoch %{x}: %{y:.4f}",
        )
    last = max((epoch for curve in curves.values() for epoch, _ in curve), default=1)
    figure.update_xaxes(title_text="epoch", tickformat="d", dtick=1 if last < 8 else None)
    return _styled(figure, height)


def seconds_bars(seconds: Mapping[str, float], colours: Mapping[str, str]) -> go.Figure:
    """Horizontal bars of training seconds, the first run on top."""
    figure = go.Figure()
    figure.add_bar(
        orientation="h",
        x=list(seconds.values()),
        y=[html.escape(run) for run in seconds],
        marker_color=[colours[run] for run in seconds],
        text=[f"{value:,.1f} s" for value in seconds.values()],
        textposition="auto",
        hovertemplate="%{y}: %{x:,.1f} s<extra></extra>",
    )
    figure.update_xaxes(title_text="seconds of training")
    figure.update_yaxes(autorange="reversed")
    return _styled(figure, 90 + 38 * len(seconds))


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 8, "r": 8, "t": 12, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 13, "color": _TEXT},
        legend={"orientation": "h", "y": -70 / height, "yanchor": "top", "x": 0},
        showlegend=len(figure.data) > 1,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
    )
    figure.update_xaxes(automargin=True, gridcolor=_GRID, fixedrange=True)
    figure.update_yaxes(automargin=True, gridcolor=_GRID, fixedrange=True)
    return figure
