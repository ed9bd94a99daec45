"""``recbole-hellm compare``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from recbole_hellm.cli.options import CONFIG, config_files
from recbole_hellm.cli.runs_command import RunsCommand
from recbole_hellm.errors import RunError

if TYPE_CHECKING:
    from recbole_hellm.benchmark.compare_settings import CompareSettings


def compare(options: dict[str, Any], overrides: dict[str, Any]) -> str:
    """Compare models over datasets and seeds.

    Only what the kept records lack is run. Tables show the results and tests of significance.
    Settings of runs that are given here hold for every run.

    \b
    Examples:
      recbole-hellm compare --benchmark=table1 --datasets=Beauty,Toys --seeds=3
      recbole-hellm compare --models=LightGCN,SASRec,HeLLM --dataset=Beauty --seeds=3
      recbole-hellm compare --benchmark=table3 --kept_only --records=docs/records --output=tables
    """
    from recbole_hellm.comparisons import report

    shown = report(_settings().from_config(options), overrides, config_files(options))
    if shown.failed:
        click.echo(shown.text)
        failures = "; ".join(f"{what}: {reason}" for what, reason in shown.failed.items())
        raise RunError(f"The comparison is not complete: {failures}")
    return shown.text


def _settings() -> type[CompareSettings]:
    from recbole_hellm.benchmark.compare_settings import CompareSettings

    return CompareSettings


def _models(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The methods that are compared, of a benchmark or as named."""
    settings = _settings().from_config(options)
    paths: Mapping[str, str] = getattr(settings.plan, "paths", {})
    return tuple(paths.get(name, name) for name in settings.chosen)


command = RunsCommand(
    compare,
    extra=[CONFIG],
    settings=_settings,
    group="Comparison",
    aliases={"datasets": "dataset", "models": "model"},
    model_key="models",
    models=_models,
)
