"""``recbole-hellm models``."""

from __future__ import annotations

from typing import Any

from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import DATASET, ModelOption
from recbole_hellm.errors import ConfigError

MODEL = ModelOption("The model whose settings to list.")


def models(options: dict[str, Any]) -> str:
    """List the models, or the settings of one.

    The settings are shown with their defaults on a dataset, as a settings file.

    \b
    Examples:
      recbole-hellm models
      recbole-hellm models --model=HeLLM --dataset=Beauty
    """
    from recbole_hellm.reporting.tables import model_list, model_settings

    if "model" in options:
        return model_settings(options["model"], str(options.get("dataset", DATASET.default)))
    if "dataset" in options:
        raise ConfigError("models --dataset needs --model, the one whose settings to list.")
    return f"{model_list()}\n\n{_outside_models()}"


def _outside_models() -> str:
    from recbole_hellm import registry
    from recbole_hellm.extensions import installed

    lines = [f"  {name}: {path}" for name, path in sorted(installed(registry.GROUP).items())]
    title = "Models of other installed packages" if lines else "No other package offers models"
    hint = "A model of your own is named my_package.my_module:MyModel"
    return "\n".join([title, *lines, "", hint])


command = SettingsCommand(models, extra=[MODEL, DATASET])
