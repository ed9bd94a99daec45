"""A command of the command line, whose options are settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from recbole_hellm import recbole_models
from recbole_hellm.cli.arguments import YAML, ValueReader, split_arguments
from recbole_hellm.cli.options import SettingOption
from recbole_hellm.errors import ConfigError, nearest

if TYPE_CHECKING:  # pydantic is imported only where a command needs its settings
    from recbole_hellm.config.settings import Settings

HELP_NAMES = ("-h", "--help")


class SettingsCommand(click.Command):
    """A command whose options are settings.

    Parameters
    ----------
    callback : callable
        Does the work with the options that are given, and returns the text to print. Its docstring
        is the help.
    extra : sequence of SettingOption
        Options that no settings class declares.
    settings : callable, optional
        Returns the settings class of the command. It is imported only when it is needed.
    group : str
        Heading of its options in the help.
    shared : sequence of str
        Keys of ``RunSettings`` that the command also takes.
    aliases : mapping of str to str
        Key of a setting -> another name of its option.
    positional : str, optional
        Key of the option that can also be given as plain words.
    """

    raw_texts: ClassVar[bool] = True
    several_processes: ClassVar[bool] = False
    continues_with: ClassVar[str] = "the same command"

    def __init__(
        self,
        callback: Callable[..., str],
        *,
        extra: Sequence[SettingOption] = (),
        settings: Callable[[], type[Settings]] | None = None,
        group: str = "Options",
        shared: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
        positional: str | None = None,
    ) -> None:
        super().__init__(
            name=None,
            callback=callback,
            help=inspect.cleandoc(callback.__doc__ or ""),
            context_settings={"help_option_names": list(HELP_NAMES), "max_content_width": 100},
            options_metavar="[--KEY=VALUE ...]",
        )
        self.extra = extra
        self.settings = settings
        self.group = group
        self.shared = shared
        self.aliases = aliases or {}
        self.positional = positional

    def options(self) -> list[SettingOption]:
        """The command's options."""
        declarations = []
        if self.shared:
            from recbole_hellm.config.run_settings import RunSettings

            declarations += [RunSettings.declarations()[key] for key in self.shared]
        if self.settings:
            declarations += self.settings().declarations().values()
        options = [*self.extra]
        for declaration in declarations:
            aliases = [self.aliases[key] for key in [declaration.key] if key in self.aliases]
            options.append(
                SettingOption.declared(declaration, self.group, raw=self.raw_texts, aliases=aliases)
            )
        return options

    def read(self, words: Sequence[str], further: bool = True) -> dict[str, Any]:
        """The values of options by key.

        Parameters
        ----------
        words : sequence of str
        further : bool
            Whether to read the values of keys that are not the command's own. They are None
            otherwise.

        Raises
        ------
        ConfigError
            If a word is no option, a key is given twice, a text is missing or a value is not YAML.
        """
        declared = {option.key: option for option in self.options()}
        keys = {alias: option.key for option in declared.values() for alias in option.aliases}
        texts: dict[str, tuple[str, str | None]] = {}
        plain: list[str] = []
        for written, text in split_arguments(words):
            if written is None:
                plain.append(self._plain(str(text)))
                continue
            key = keys.get(written, written)
            if key in texts:
                before = texts[key]
                if not (key in declared and declared[key].repeatable and text and before[1]):
                    raise ConfigError(_given_twice(written, before[0]))
                text = f"{before[1]},{text}"
            texts[key] = written, text
        values = {key: declared[key].reader.read(*texts[key]) for key in texts if key in declared}
        # Keys of one model come last, since other keys may name the model.
        for key in sorted(texts, key=lambda key: "." in key):
            if key not in declared:
                reader = self.further_reader(key, values) if further else None
                values[key] = reader.read(*texts[key]) if reader else None
        if self.positional and plain:
            from recbole_hellm.config.settings import names

            values[self.positional] = [*plain, *names(values.get(self.positional))]
        return values

    def _plain(self, word: str) -> str:
        if self.positional is None or word.startswith("-"):
            raise ConfigError(f"Unexpected argument '{word}'; options look like --key=value.")
        return word

    def further_reader(self, key: str, values: Mapping[str, Any]) -> ValueReader:
        """How to read a key that is not the command's own; `values` are those read so far."""
        return YAML

    def callback_arguments(self, options: dict[str, Any]) -> dict[str, Any]:
        """What the callback gets; raises :class:`ConfigError` if an option is unknown."""
        known = [option.key for option in self.options()]
        for key in options:
            if key not in known:
                raise ConfigError(
                    f"Unknown option '--{key}'{nearest(key, known)} this command takes "
                    f"{', '.join(f'--{name}' for name in known)}."
                )
        return {"options": options}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, or show the help.

        The context's ``obj`` becomes the options that are given.
        """
        words = [word for word in args if word not in HELP_NAMES]
        if ctx.resilient_parsing:  # a shell asks for completions
            try:
                ctx.obj = self.read(words, further=False)
            except ConfigError:
                ctx.obj = {}
            for key in ctx.obj:
                ctx.set_parameter_source(key, ParameterSource.COMMANDLINE)
            return []
        wants_help = len(words) < len(args)
        ctx.obj = self.read(words, further=not wants_help)
        if wants_help:
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params = self.callback_arguments(ctx.obj)
        return []

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options for help and completion."""
        return [*self.options(), *filter(None, [self.get_help_option(ctx)])]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete options, and folders where plain words are allowed."""
        if self.positional and not incomplete.startswith("-"):
            return [CompletionItem(incomplete, type="dir")]
        return super().shell_complete(ctx, incomplete)

    def shown_default(self, ctx: click.Context, option: SettingOption) -> Any:
        """The default that the help shows."""
        return option.default

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The words after the command's name in the usage line."""
        plain = f"{self.positional.upper()}..." if self.positional else ""
        return [*filter(None, (plain, self.options_metavar))]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, SettingOption):
                row = param.help_row(self.shown_default(ctx, param))
                rows.setdefault(param.group, []).append(row)
        for group, group_rows in rows.items():
            with formatter.section(group):
                formatter.write_dl(group_rows)

    def invoke(self, ctx: click.Context) -> None:
        """Carry out the command. Of several processes, the first prints the text.

        Raises :class:`ConfigError` if RecBole is not installed, before anything is done.
        """
        from recbole_hellm.training.distributed import process_group

        recbole_models.folder()
        with process_group() as processes:
            if processes.size > 1 and not self.several_processes:
                raise ConfigError(
                    f"{ctx.info_name} works in one process; start it without torchrun."
                )
            text = super().invoke(ctx)
            if processes.first:
                click.echo(text)


def _given_twice(written: str, before: str) -> str:
    if written == before:
        return f"Option --{written} is given twice; keep one of them."
    first, second = sorted((written, before))
    return f"--{first} and --{second} are the same; keep one of them."
