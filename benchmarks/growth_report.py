"""What a measurement of growth found: exponents, tables, a plot, and the line of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Goal, print_result
from tabulate import tabulate

MEASURES = {
    "epoch_s": ("interactions", "seconds of an epoch"),
    "evaluation_s": ("pairs", "seconds of evaluation"),
    "peak_mb": ("interactions", "peak memory, MiB"),
}
"""What is plotted, over what, and its name."""
SOFTMAX = ("SASRec", "HeLLM")
"""Models that score all items at each label, so that an epoch also grows with the items."""
SCORES = "interactions x items"
OF_DATA = dict.fromkeys(("prepare_s", "read_s", "hash_s", "split_s", "peak_mb"), "interactions")


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """b of the power law a x^b that fits best on logarithmic axes; NaN with fewer than two sizes.

    Parameters
    ----------
    sizes, values : sequence of float
        Positive.
    """
    if len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def exponents(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fitted exponent of each measure of each point, and what it is an exponent of."""
    rows = []
    for what in dict.fromkeys(result["what"] for result in results):
        mine = [result for result in results if result["what"] == what]
        over = [(key, axis) for key, (axis, _) in MEASURES.items()] + list(OF_DATA.items())
        if what in SOFTMAX:
            over.append(("epoch_s", SCORES))
        for key, axis in dict.fromkeys(over):
            if key in mine[0]:
                fitted = exponent([_size(one, axis) for one in mine], [one[key] for one in mine])
                rows.append({"what": what, "measure": key, "over": axis, "exponent": fitted})
    return rows


def _size(result: dict[str, Any], axis: str) -> float:
    """What an exponent is of; items are those that somebody met."""
    return float(result["interactions"] * result["items_seen"] if axis == SCORES else result[axis])


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print the points and the exponents."""
    keys = ["what", "users", "items_seen", "interactions", "steps", *OF_DATA]
    data = [one for one in results if "epoch_s" not in one]
    models = [one for one in results if "epoch_s" in one]
    for rows, columns in (
        (data, keys),
        (models, [*keys[:5], "epoch_s", "epoch_cpu_s", "evaluation_s", "total_s", "peak_mb"]),
    ):
        cells = [[one.get(column) for column in columns] for one in rows]
        if rows:
            print(tabulate(cells, columns, floatfmt=".4g", missingval=""), end="\n\n")
    fitted = [list(row.values()) for row in exponents(results) if not np.isnan(row["exponent"])]
    if fitted:
        print(tabulate(fitted, ["what", "measure", "over", "exponent"], floatfmt=".2f"))


def plot(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the measures of the models on double-logarithmic axes, exponents in the legends."""
    import matplotlib.pyplot as plt

    models = [one for one in results if "epoch_s" in one]
    rows = exponents(models)
    fitted = {(row["what"], row["measure"], row["over"]): row["exponent"] for row in rows}
    figure, panels = plt.subplots(1, len(MEASURES), figsize=(13, 4), layout="constrained")
    for panel, (key, (axis, title)) in zip(panels, MEASURES.items(), strict=True):
        for what in dict.fromkeys(one["what"] for one in models):
            mine = sorted((one[axis], one[key]) for one in models if one["what"] == what)
            power = fitted[what, key, axis]
            label = what if np.isnan(power) else f"{what} (exponent {power:.2f})"
            panel.loglog(*zip(*mine, strict=True), marker="o", label=label)
        panel.set_xlabel("users x items" if axis == "pairs" else axis)
        panel.set_title(title)
        panel.legend(fontsize="small")
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def summarise(results: Sequence[dict[str, Any]]) -> None:
    """Print the line of the benchmark: exponents, and what the largest size takes."""
    fitted = [row for row in exponents(results) if not np.isnan(row["exponent"])]
    of_items = {row["what"]: row["exponent"] for row in fitted if row["over"] == SCORES}
    fitted = [row for row in fitted if row["over"] != SCORES]
    figures = {f"{row['what']}_{row['measure']}_exponent": row["exponent"] for row in fitted}
    figures |= {f"{what}_epoch_s_exponent_of_{SCORES}": power for what, power in of_items.items()}
    most = max((one["users"] for one in results), default=0)
    largest = [one for one in results if one["users"] == most]
    for one in largest:
        kept = (*OF_DATA, "epoch_s", "evaluation_s")
        figures |= {f"{one['what']}_{key}": one[key] for key in kept if key in one}
    goals = [
        Goal("exponent of " + key, max(row["exponent"] for row in rows), 1.1)
        for key in ("epoch_s", "evaluation_s", "peak_mb")
        if (rows := [row for row in fitted if row["measure"] == key])
    ]
    if largest:
        memory = max(one["peak_mb"] for one in largest)
        goals.append(Goal(f"MiB of memory with {most:,} users", memory, 24 * 1024))
    print_result(
        "growth",
        {"users": most} | figures,
        tuple(goals),
        "The largest exponent of all models counts. SASRec and HeLLM score all items at each "
        "label, and the more users, the more items somebody has met: of interactions times items, "
        f"the exponents of their epochs are {_listed(of_items)}. Where an epoch of a graph model "
        "has more steps with more interactions, and each propagates over all of them, it grows "
        "with their square (`--steps=0`).",
    )


def _listed(powers: dict[str, float]) -> str:
    return " and ".join(f"{power:.2f} ({what})" for what, power in powers.items()) or "not known"
