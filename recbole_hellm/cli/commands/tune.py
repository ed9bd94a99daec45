"""``recbole-hellm tune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.options import CONFIG, DATASET, ModelOption, config_files
from recbole_hellm.cli.runs_command import RunsCommand
from recbole_hellm.errors import ConfigError

if TYPE_CHECKING:
    from recbole_hellm.benchmark.tuning import TuningSettings

MODEL = ModelOption("The model to tune.")


def tune(options: dict[str, Any], overrides: dict[str, Any]) -> str:
    """Search the settings of a model by its validation metric.

    Processes and machines that share a storage work on one study. Settings of runs that are given
    here hold for every trial.

    \b
    Examples:
      recbole-hellm tune --model=FREEDOM --dataset=Beauty --trials=8
      recbole-hellm tune --model=VBPR --dataset=Beauty --space=space.yaml --storage=studies.log
    """
    from tabulate import tabulate

    from recbole_hellm.benchmark.tuning import tune
    from recbole_hellm.config.settings import names

    models = names(options.get("model"))
    if len(models) != 1:
        raise ConfigError("tune searches one model at a time; name it with --model=NAME.")
    dataset = str(options.get("dataset", DATASET.default))
    settings = _settings().from_config(options)
    study = tune(models[0], dataset, settings, overrides, config_files(options))
    table = tabulate(study.trials.to_dict("records"), headers="keys", floatfmt=".5g")
    return f"{table}\n\nBest settings: {study.path} (recbole-hellm run --config={study.path})"


def _settings() -> type[TuningSettings]:
    from recbole_hellm.benchmark.tuning import TuningSettings

    return TuningSettings


command = RunsCommand(tune, extra=[MODEL, DATASET, CONFIG], settings=_settings, group="Search")
