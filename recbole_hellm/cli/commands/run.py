"""``recbole-hellm run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_hellm.cli.options import CONFIG, DATASET, ModelOption, SettingOption, config_files
from recbole_hellm.cli.runs_command import RunsCommand
from recbole_hellm.errors import ConfigError

MODEL = ModelOption(
    "One model or several, such as LightGCN,SASRec,HeLLM; one of your own is named "
    "my_package.my_module:MyModel.",
    default="Pop,HeLLM",
)
DRY_RUN = SettingOption(
    "dry_run",
    "Show what the runs will need and train nothing.",
    default=False,
    aliases=["dry-run"],
)


def run(options: dict[str, Any], overrides: dict[str, Any]) -> str:
    """Train and evaluate models.

    Every model is evaluated on the same split, and one table shows the results. Add --model=NAME to
    this help to see the settings of a model. --KEY=VALUE sets any of them, and --MODEL.KEY=VALUE
    sets it for one model or stage. Values are YAML.

    \b
    Examples:
      recbole-hellm run --model=HeLLM --dataset=Beauty
      recbole-hellm run --model=LightGCN,SASRec --seed=2025 --LightGCN.n_layers=2
      recbole-hellm run --model=HeLLM --dataset=Beauty --resume
    """
    from recbole_hellm.config.resolution import HellmConfig, check_addressed
    from recbole_hellm.reporting.tables import comparison, next_steps
    from recbole_hellm.runs.running import execute

    models = _models(options)
    if not models:
        raise ConfigError("--model names no model; `recbole-hellm models` lists them.")
    dataset = str(options.get("dataset", DATASET.default))
    files = config_files(options)
    # Every configuration is checked before the first model trains.
    configs = [HellmConfig(model, dataset, overrides, files) for model in models]
    check_addressed(configs)
    if options.get("dry_run"):
        from recbole_hellm.runs.dry_run import describe_needs

        return "\n\n".join(describe_needs(config) for config in configs)
    results = [execute(config) for config in configs]
    return f"{comparison(results)}\n\n{next_steps(results)}"


def _models(options: Mapping[str, Any]) -> tuple[str, ...]:
    from recbole_hellm.config.settings import names

    return names(options.get("model", MODEL.default))


class _Run(RunsCommand):
    several_processes = True
    continues_with = "--resume"


command = _Run(run, extra=[MODEL, DATASET, CONFIG, DRY_RUN], models=_models)
