"""A command that makes runs, and therefore takes any of their settings."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from recbole_hellm.cli.arguments import YAML, ValueReader
from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.known_names import check_names
from recbole_hellm.cli.options import SettingOption
from recbole_hellm.errors import ConfigError, UnknownOptionError
from recbole_hellm.extensions import is_import_path


class RunsCommand(SettingsCommand):
    """A command that also takes the settings of runs, of their models and of RecBole.

    ``--MODEL.KEY`` sets a key for one model. The callback gets the command's own options as
    ``options`` and the settings of runs as ``overrides``.

    Parameters
    ----------
    callback, **parts
        As for :class:`SettingsCommand`.
    model_key : str
        Key of the option that names models.
    models : callable, optional
        Returns the models that will run with given options; by default, those that they name.
    """

    raw_texts = False

    def __init__(
        self,
        callback: Callable[..., str],
        *,
        model_key: str = "model",
        models: Callable[[Mapping[str, Any]], Sequence[str]] | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(callback, **parts)
        self.model_key = model_key
        self.models = models or self.named_models

    def named_models(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The models that `options` name."""
        from recbole_hellm.config.settings import names

        return names(options.get(self.model_key))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look at the names first: what the rest needs takes seconds to import."""
        if not ctx.resilient_parsing and "WORLD_SIZE" not in os.environ:
            check_names(args, datasets=self.model_key == "model")
        return super().parse_args(ctx, args)

    def run_options(self) -> Iterator[SettingOption]:
        """Options for the settings that all models share."""
        from recbole_hellm.config.run_settings import RunSettings
        from recbole_hellm.config.training_settings import TrainingSettings

        group = "Runs"
        for declaration in RunSettings.declarations().values():
            group = declaration.facts.group or group
            yield SettingOption.declared(declaration, group, in_files=True)
        for declaration in TrainingSettings.declarations().values():
            yield SettingOption.declared(declaration, "Training", in_files=True)

    def model_options(self, model: str) -> Iterator[SettingOption]:
        """Options for the settings of one model; those of RecBole's models have no help."""
        from recbole_hellm import registry

        entry = registry.describe(model)
        for cls in getattr(entry.load(), "settings_classes", ()):
            for declaration in cls.declarations().values():
                yield SettingOption.declared(declaration, model, in_files=True)
        for key in registry.free_keys(entry):
            yield SettingOption(key, "", "VALUE", group=model)

    def further_reader(self, key: str, values: Mapping[str, Any]) -> ValueReader:
        """As the shared settings or those of a model declare it; YAML for other keys."""
        owner, _, name = key.rpartition(".")
        for option in self.run_options():
            if option.key == name:
                return option.reader
        models: Sequence[str] = self.models(values)
        if owner:  # the class alone, where the model is named by an import path elsewhere
            paths = [path for path in map(str, (*models, *values.values())) if is_import_path(path)]
            models = [path for path in paths if path.endswith(f":{owner}")] or [owner]
        try:
            options = [option for model in models for option in self.model_options(model)]
        except ConfigError:
            if not owner:
                raise
            options = []  # a settings file may name the model; it is checked with the settings
        return next((option.reader for option in options if option.key == name), YAML)

    def callback_arguments(self, options: dict[str, Any]) -> dict[str, Any]:
        """Divide the options; a configuration checks the settings of runs later."""
        command_keys = {option.key for option in self.options()}
        return {
            "options": {key: value for key, value in options.items() if key in command_keys},
            "overrides": {key: value for key, value in options.items() if key not in command_keys},
        }

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own options, those of all runs, and those of the models that are named."""
        shared = [*self.options(), *self.run_options()]
        keys = {option.key for option in shared}
        named = [
            option
            for model in self.named_models(ctx.obj or {})
            for option in self.model_options(model)
            if option.key not in keys
        ]
        return [*shared, *named, *filter(None, [self.get_help_option(ctx)])]

    def shown_default(self, ctx: click.Context, option: SettingOption) -> Any:
        """The default; where a model is named, as its files and the dataset's set it."""
        models = self.named_models(ctx.obj or {})
        command_keys = {one.key for one in self.options()}
        if (
            option.key in command_keys
            or not models
            or (len(models) > 1 and option.group not in models)
        ):
            return option.default
        model = option.group if option.group in models else models[0]
        dataset = str((ctx.obj or {}).get("dataset", "sample"))
        return _defaults(model, dataset).get(option.key, option.default)

    def invoke(self, ctx: click.Context) -> None:
        """Carry out the command. An unknown setting may be meant as one of its own options."""
        try:
            super().invoke(ctx)
        except UnknownOptionError as error:
            if error.key not in ctx.obj:  # it is in a file, or for one model
                raise
            raise error.beside(option.key for option in self.options()) from error


@functools.cache
def _defaults(model: str, dataset: str) -> Mapping[str, Any]:
    from recbole_hellm.config.resolution import HellmConfig

    defaults: Mapping[str, Any] = HellmConfig(model, dataset).internal_config_dict
    return defaults
