"""Tables of kept run records beside the paper's figures, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_hellm.benchmark.paper import METRICS, TABLE_1, TABLE_3
from recbole_hellm.errors import RunError
from recbole_hellm.yaml_files import read_yaml

COMPARED = ("dataset", "split", "candidates", "users", "items")
_NAMES = {"recall": "R", "ndcg": "N"}

Records = Mapping[str, Mapping[str, Any]]


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of a dataset's runs by model.

    Parameters
    ----------
    folder : Path
        Holds ``<Model>/<id>/metrics.json`` and ``shown.yaml``, which names the run of each model.

    Raises
    ------
    RunError
        If a record is missing, or the records differ in what makes them comparable.
    """
    records = {}
    for model, run in read_yaml(folder / "shown.yaml").items():
        path = folder / model / str(run) / "metrics.json"
        try:
            records[model] = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(f"{path} cannot be read; copy that run's record there.") from error
    for key in COMPARED:
        values = {record[key] for record in records.values()}
        if len(values) > 1:
            raise RunError(f"The records in {folder} differ in {key} ({values}).")
    return records


def tables(records: Records) -> dict[str, str]:
    """Table 3 of the runs that ``shown.yaml`` names, by stage, under the paper's maskings.

    These runs were made before records held ranks; ``recbole-hellm compare
    --benchmark=table3`` takes their place when it has been run.
    """
    ablations = {
        base: [*(name for name in TABLE_3 if name.startswith(f"{base}-wo-")), base]
        for base in ("HeLLMPre", "HeLLM")
    }
    return {
        "pre-training": _beside(records, ablations["HeLLMPre"], "train", METRICS[2:]),
        "fine-tuning": _beside(records, ablations["HeLLM"], "none", METRICS[2:]),
    }


def _beside(records: Records, models: Sequence[str], masking: str, metrics: tuple[str, ...]) -> str:
    """Test metrics, each with the paper's figure after it."""
    rows = []
    for name in models:
        if name in records:
            printed = {**TABLE_3.get(name, {}), **TABLE_1.get(name, {})}
            figures = printed.get(str(records[name]["dataset"]), {})
            ours = records[name]["test"][masking]
            cells = [f"{_figure(ours[m])} / {_figure(figures.get(m))}" for m in metrics]
            rows.append([name, *cells])
    return _markdown(["ours / paper's", *map(_short, metrics)], rows)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}".lstrip("0")


def _short(metric: str) -> str:
    name, _, k = metric.partition("@")
    return f"{_NAMES[name]}@{k}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)
