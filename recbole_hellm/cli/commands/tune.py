"""``recbole-hellm tune``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
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
    from recbole_hellm.config.resolution import HellmConfig
    from recbole_hellm.config.settings import names
    from recbole_hellm.config.split_settings import described, protocol

    models = names(options.get("model"))
    if len(models) != 1:
        raise ConfigError("tune searches one model at a time; name it with --model=NAME.")
    dataset = str(options.get("dataset", DATASET.default))
    settings = _settings().from_config(options)
    study = tune(models[0], dataset, settings, overrides, config_files(options))
    table = tabulate(study.trials.to_dict("records"), headers="keys", floatfmt=".5g")
    config = HellmConfig(models[0], dataset, overrides, config_files(options))
    told = described({"protocol": protocol(config)})
    table = f"Validation, {told}\n\n{table}" if told else table
    # The best settings come last, since the last file wins, as they do in a trial.
    files = ",".join(map(str, (*config_files(options), study.path)))
    # A trial is a run before its test, which --resume takes up.
    chosen = {"model": models[0], "dataset": dataset, "config": files, "resume": True}
    given = {key: value for key, value in overrides.items() if key not in ("force", "resume")}
    return f"{table}\n\nBest settings: {study.path}; the run with them:\n{_run(chosen | given)}"


def _run(settings: Mapping[str, Any]) -> str:
    """The command of a run, as a shell takes it."""
    from recbole_hellm.config.yaml_files import as_yaml

    texts = {key: as_yaml(value) for key, value in settings.items()}
    texts |= {key: str(settings[key]) for key in ("model", "dataset", "config")}
    return shlex.join(["recbole-hellm", "run", *(f"--{key}={texts[key]}" for key in texts)])


def _settings() -> type[TuningSettings]:
    from recbole_hellm.benchmark.tuning import TuningSettings

    return TuningSettings


command = RunsCommand(tune, extra=[MODEL, DATASET, CONFIG], settings=_settings, group="Search")
