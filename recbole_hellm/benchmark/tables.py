"""Tables for people: runs side by side, and the models there are."""

from __future__ import annotations

from collections.abc import Iterable

from tabulate import tabulate

from recbole_hellm import registry
from recbole_hellm.config import MASKINGS, HellmConfig
from recbole_hellm.errors import RunError
from recbole_hellm.quick_start import RunResult

COMPARED = ("dataset", "split", "candidates", "masking", "users")


def comparison(results: Iterable[RunResult]) -> str:
    """Test metrics of runs and of the stages they stand on, one row a run.

    Raises
    ------
    RunError
        If the runs differ in dataset, split, candidate items, masking or number of test users.
    """
    rows: dict[str, RunResult] = {}
    for result in results:
        for found in (*result.stages, result):
            rows.setdefault(str(found.path), found)
    runs = list(rows.values())
    for key in COMPARED:
        values = {run.record[key] for run in runs}
        if len(values) > 1:
            raise RunError(f"These runs differ in {key} ({values}) and cannot be compared.")
    record = runs[0].record
    own = record["masking"]
    blocks = [
        f"Dataset {record['dataset']}: {record['users']} test users, {record['items']} candidate "
        f"items, split {record['split'][:12]}"
    ]
    for masking in (own, *(name for name in MASKINGS if name != own)):
        note = "" if masking == own else " (same checkpoint)"
        blocks.append(f"\nTest, mask_history={masking}{note}")
        blocks.append(_metrics_table(runs, masking))
    blocks.append("\nRun directories")
    blocks += [f"  {run.record['model']}: {run.path}" for run in runs]
    return "\n".join(blocks)


def _metrics_table(runs: list[RunResult], masking: str) -> str:
    names = [
        name
        for name in runs[0].metrics("test", masking)
        if all(name in run.metrics("test", masking) for run in runs)
    ]
    body = [
        [
            run.record["model"],
            *(run.metrics("test", masking)[name] for name in names),
            run.record["best_epoch"],
            run.record["cost"]["train_seconds"],
        ]
        for run in runs
    ]
    headers = ["model", *names, "epoch", "train s"]
    formats = ("", *[".4f"] * len(names), ".0f", ".0f")
    return tabulate(body, headers=headers, floatfmt=formats, tablefmt="simple")


def model_list() -> str:
    """Every model that can be run by name."""
    body = [
        [entry.name, entry.paper, ", ".join(entry.inputs), ", ".join(entry.stages.values())]
        for entry in registry.OWN_MODELS.values()
    ]
    own = tabulate(body, headers=["model", "method", "inputs", "stages"], tablefmt="simple")
    names = ", ".join(registry.recbole_model_names())
    return f"{own}\n\nRecBole's own: {names}"


def model_settings(model: str) -> str:
    """A model's own settings with their defaults on the sample."""
    settings = HellmConfig(model, "sample").model_settings()
    return "\n".join(f"{key}: {settings[key]}" for key in sorted(settings))
