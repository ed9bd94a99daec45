"""Options of the command line, which follow from the declarations of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from recbole_hellm.cli.arguments import TEXT, YAML, ValueReader
from recbole_hellm.config.yaml_files import as_yaml

if TYPE_CHECKING:  # pydantic is imported only where a command needs its settings
    from recbole_hellm.config.settings import Declaration

_METAVARS = {
    "text": "TEXT",
    "texts": "LIST",
    "number": "NUMBER",
    "flag": "True|False",
    "list": "LIST",
    "mapping": "MAPPING",
}


class SettingOption(click.Option):
    """An option of a command.

    Parameters
    ----------
    key : str
        Name of the setting; the option is ``--key``.
    help : str
    metavar : str
        What the help shows for the value; empty for a flag.
    reader : ValueReader
    default : object
        For the help; the code that uses the setting knows its default.
    choices : sequence of str
        Values that shells complete.
    group : str
        Heading in the help.
    aliases : iterable of str
        Other names of the option, without dashes.
    repeatable : bool
        Whether it may be given several times, which means the same as one text with commas.
    """

    def __init__(
        self,
        key: str,
        help: str,
        metavar: str = "",
        *,
        reader: ValueReader = YAML,
        default: Any = None,
        choices: Sequence[str] = (),
        group: str = "Options",
        aliases: Iterable[str] = (),
        repeatable: bool = False,
    ) -> None:
        self.key = key
        self.reader = reader
        self.choices = tuple(choices)
        self.group = group
        self.aliases = tuple(aliases)
        self.repeatable = repeatable
        flags = [f"--{name}" for name in (key, *self.aliases)]
        super().__init__([key, *flags], help=help, metavar=metavar, is_flag=False)
        self.default = default

    @classmethod
    def declared(
        cls,
        declaration: Declaration,
        group: str,
        *,
        raw: bool = False,
        in_files: bool = False,
        aliases: Iterable[str] = (),
    ) -> SettingOption:
        """The option of a declared setting.

        Parameters
        ----------
        declaration : Declaration
        group : str
        raw : bool
            Whether its texts are raw, see :class:`~recbole_hellm.cli.arguments.ValueReader`. Where
            lists of texts are allowed, they never are.
        in_files : bool
            Whether a settings file may hold the setting, so that null takes its value back.
        aliases : iterable of str
        """
        kinds = declaration.kinds
        reader = ValueReader(
            is_text=declaration.is_text or "texts" in kinds,
            raw=raw and "texts" not in kinds,
            nullable=in_files or declaration.default is None,
        )
        if declaration.choices and "text" in kinds:
            metavar = "|".join(declaration.choices)
        elif kinds == ("flag",) and declaration.default is False:
            metavar = ""
        else:
            metavar = "|".join(dict.fromkeys(_METAVARS[kind] for kind in kinds))
        return cls(
            declaration.key,
            declaration.help,
            metavar,
            reader=reader,
            default=declaration.default,
            choices=declaration.choices or ("True", "False") * ("flag" in kinds),
            group=group,
            aliases=aliases,
        )

    def help_row(self, default: Any) -> tuple[str, str]:
        """The two columns of the help, with a default that may depend on the model."""
        flags = ", ".join(self.opts)
        plain = default is None or default in ((), "") or (default is False and not self.metavar)
        shown = "" if plain else f"[default: {as_yaml(default)}]"
        return (
            f"{flags}={self.metavar}" if self.metavar else flags,
            "  ".join(filter(None, (self.help, shown))),
        )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the choices; complete other texts as files, since most of them are paths."""
        if self.reader.is_text and not self.choices:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]


class ModelOption(SettingOption):
    """The option ``--model``, of one model or of several."""

    def __init__(self, help: str, *, default: str | None = None) -> None:
        reader = ValueReader(is_text=True, nullable=default is None)
        super().__init__("model", help, "NAME", reader=reader, default=default)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of this package's models, and of those that other packages offer."""
        from recbole_hellm import registry
        from recbole_hellm.extensions import installed

        before, comma, started = incomplete.rpartition(",")
        models = [*registry.COMPARED_MODELS, *registry.OWN_MODELS, *installed(registry.GROUP)]
        return [
            CompletionItem(f"{before}{comma}{model}")
            for model in models
            if model.startswith(started)
        ]


DATASET = SettingOption(
    "dataset",
    "sample, Beauty, Toys, Sports, ... or a folder in data_path.",
    "NAME",
    reader=TEXT,
    default="sample",
)
CONFIG = SettingOption(
    "config",
    "Settings from a file; of several, as in a.yaml,b.yaml, the last one wins.",
    "FILE",
    reader=ValueReader(is_text=True, nullable=True),
)


def dataset_directory(options: Mapping[str, Any]) -> tuple[str, Path]:
    """Name and folder of the dataset that `options` name."""
    from recbole_hellm.config.run_settings import RunSettings

    name = str(options.get("dataset", DATASET.default))
    data_path = options.get("data_path", RunSettings.declarations()["data_path"].default)
    return name, Path(data_path) / name


def config_files(options: Mapping[str, Any]) -> list[Path]:
    """The files that ``--config`` names."""
    from recbole_hellm.config.settings import names

    return [Path(name) for name in names(options.get("config"))]
