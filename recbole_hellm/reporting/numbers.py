"""How numbers are written in tables."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from recbole_hellm.evaluation.metric import Metric
from recbole_hellm.evaluation.user_values import seed_deviation

LEVEL = 0.05
"""Of all tests."""


def number(value: float | None) -> str:
    """Four decimals without the leading zero; a dash for what there is not."""
    return "–" if value is None else f"{value:.4f}".replace("0.", ".", 1)


def signed(value: float | None) -> str:
    """The same with its sign."""
    if value is None:
        return "–"
    text = number(abs(value))
    if math.isnan(value):
        return text
    return text if set(text) <= set(".0") else ("+" if value > 0 else "−") + text


def spread(values: np.ndarray) -> str:
    """Mean and, for several seeds, their standard deviation."""
    mean = number(float(values.mean()))
    return mean if len(values) < 2 else f"{mean} ± {number(seed_deviation(values))}"


def p_value(value: float) -> str:
    """Three decimals, more of what would be rounded to the level, or that it is less."""
    if np.isnan(value):
        return "–"
    if value < 0.001:
        return "<.001"
    text = f"{value:.3f}" if round(value, 3) != LEVEL or value >= LEVEL else f"{value:.5f}"
    return text.replace("0.", ".", 1)


def undefined(values: Iterable[float]) -> list[str]:
    """A note on what is no number, where there is any."""
    return [] if all(map(math.isfinite, values)) else ["nan: a run has no number for this metric."]


def written(value: float | None, spec: str) -> str:
    """The value in a metric's own format; four decimals as in :func:`number`."""
    return number(value) if value is None or spec == Metric.spec else f"{value:{spec}}"
