"""Tables for people: runs side by side, and the models there are."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_hellm import recbole_models, registry
from recbole_hellm.config.resolution import (
    MASKINGS,
    HellmConfig,
    defaults,
)
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.split_settings import described
from recbole_hellm.config.yaml_files import as_yaml, packaged
from recbole_hellm.errors import RunError
from recbole_hellm.reporting.headers import counted, policy, row_notes
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.results import RunResult

COMPARED = ("dataset", "protocol", "split", "candidates", "masking", "users")


def comparison(results: Iterable[RunResult]) -> str:
    """Test metrics of runs and of the stages they stand on, one row a run.

    Raises
    ------
    RunError
        If the runs differ in dataset, protocol, split, candidate items, masking or number of test
        users.
    """
    runs = comparable(results)
    record = runs[0].record
    run_masking = record["masking"]
    blocks = [
        f"Dataset {record['dataset']}: {counted(record, 'd')}, split {record['split'][:12]}",
        *row_notes((run.record["model"], run.record) for run in runs),
    ]
    for masking in (run_masking, *(name for name in MASKINGS if name != run_masking)):
        note = "" if masking == run_masking else " (same checkpoint)"
        blocks.append(f"\nTest, {policy(record, masking)}{note}")
        blocks.append(_metrics_table(runs, masking))
    blocks.append("\nRun directories")
    blocks += [f"  {run.record['model']}: {run.path}" for run in runs]
    return "\n".join(blocks)


def comparable(results: Iterable[RunResult]) -> list[RunResult]:
    """Runs, each once, with the stages they stand on before them.

    Raises
    ------
    RunError
        If they differ in dataset, protocol, split, candidate items, masking or number of test
        users.
    """
    rows: dict[str, RunResult] = {}
    for result in results:
        for run in (*result.all_stages, result):
            rows.setdefault(str(run.path), run)
    runs = list(rows.values())
    for key in COMPARED:
        having: dict[Any, Path] = {}
        for run in runs:
            value = described(run.record) or "the default" if key == "protocol" else run.record[key]
            having.setdefault(value, run.path)
        if len(having) > 1:
            values = ", ".join(f"{path} has {value}" for value, path in having.items())
            raise RunError(
                f"These runs differ in {key} and cannot be compared ({values}); leave one out."
            )
    for run in runs:
        lacking = [masking for masking in MASKINGS if masking not in run.record["test"]]
        if lacking:
            raise RunError(
                f"{run.path}/metrics.json has no test metrics under mask_history={lacking[0]}; "
                f"{RunDirectory(run.path).way_out}."
            )
    return runs


def common_metrics(runs: Sequence[RunResult], masking: str) -> list[str]:
    """Names of the test metrics that all of `runs` have, in the first one's order.

    ``hit@k`` is left out where it is ``recall@k``, as it is where users have one target.
    """
    every = [run.metrics("test", masking) for run in runs]
    common = [name for name in every[0] if all(name in metrics for metrics in every)]
    told = {name: [metrics[name] for metrics in every] for name in common}
    return [
        name
        for name in common
        if not name.startswith("hit@") or told[name] != told.get(name.replace("hit", "recall"))
    ]


def _metrics_table(runs: list[RunResult], masking: str) -> str:
    names = common_metrics(runs, masking)
    body = [
        [
            run.record["model"],
            *(run.metrics("test", masking)[name] for name in names),
            run.record["best_epoch"],
            run.record["cost"].get("train_seconds"),
        ]
        for run in runs
    ]
    headers = ["model", *names, "epoch", "train s"]
    formats = ("", *[".4f"] * len(names), ".0f", ".0f")
    return tabulate(body, headers=headers, floatfmt=formats, tablefmt="simple")


def next_steps(results: Sequence[RunResult]) -> str:
    """What can be done with runs: commands, the last run's first, ready to be copied."""
    last = results[-1]
    paths = " ".join(shlex.quote(str(run.path)) for run in results)
    user = shlex.quote(str(last.ranks()["user"][0]))
    return "\n".join(
        [
            "Next",
            f"  recbole-hellm recommend --run={shlex.quote(str(last.path))} --user={user}",
            f"  recbole-hellm report {paths} --output=report.html",
            f"  tensorboard --logdir {shlex.quote(str(last.path.parents[2]))}",
        ]
    )


def model_list() -> str:
    """Every model there is: origin, inputs, stages and defaults, then RecBole's others by name."""
    entries = {**registry.COMPARED_MODELS, **registry.OWN_MODELS}
    body = []
    for entry in entries.values():
        inputs = ", ".join(entry.inputs)
        stages = ", ".join(_stages(entry))
        body.append([entry.name, entry.kind, entry.paper, inputs, stages, entry.variant_of or ""])
    headers = ["model", "kind", "method", "inputs", "stages", "variant of"]
    blocks = [
        tabulate(body, headers=headers, tablefmt="simple"),
        "\nSettings of each model beside the shared ones; `recbole-hellm models --model=NAME "
        "[--dataset=Beauty]` shows all",
        *(line for entry in entries.values() for line in _defaults(entry)),
        "\nRecBole's models, run by name in the same way",
    ]
    for family, names in recbole_models.by_family().items():
        kind = family.removesuffix("_recommender").replace("_", "-")
        blocks += _wrapped(f"  {kind}: ", ", ".join(names))
    return "\n".join(blocks)


def _stages(entry: registry.ModelEntry) -> list[str]:
    settings = packaged("model", f"{entry.base}.yaml") | registry.variant_settings(entry)
    named = (settings.get(f"{role}_model", model) for role, model in entry.stages.items())
    return [model for model in named if model]


def _defaults(entry: registry.ModelEntry) -> list[str]:
    settings = registry.variant_settings(entry)
    if entry.variant_of is None:
        for cls in getattr(entry.load(), "settings_classes", ()):
            settings |= defaults(cls)
        settings |= packaged("model", f"{entry.name}.yaml")
    if not settings:
        return []
    by_backbone = settings.pop("by_backbone", {})
    lead = f"  {entry.name}: " + (f"{entry.variant_of} with " if entry.variant_of else "")
    lines = _wrapped(lead, _listed(settings))
    for kind, more in by_backbone.items():
        lines += _wrapped(f"    backbone {kind}: ", _listed(more))
    return lines


def _listed(settings: Mapping[str, Any]) -> str:
    # Lines are not broken within a value.
    shown = (f"{key}={as_yaml(value)}".replace(" ", "\0") for key, value in settings.items())
    return ", ".join(shown)


def _wrapped(lead: str, text: str) -> list[str]:
    indent = " " * (len(lead) - len(lead.lstrip()) + 4)
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    lines = textwrap.wrap(lead + text, 100, subsequent_indent=indent, **options)
    return [line.replace("\0", " ") for line in lines]


def model_settings(model: str, dataset: str = "sample") -> str:
    """All settings of a model with their defaults on `dataset`, as a settings file."""
    config = HellmConfig(model, dataset)
    shared = RunSettings.from_config(config.internal_config_dict).to_dict()
    lines = []
    for title, values in (
        (f"{model} on {dataset}: the model and its training", config.model_settings()),
        ("Data, protocol and runs", shared),
    ):
        lines.append(f"# {title}")
        lines += [f"{key}: {as_yaml(values[key])}" for key in sorted(values)]
    return "\n".join(lines)
