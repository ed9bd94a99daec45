"""The entry point of ``run_hellm.py``, ``recbole-hellm`` and ``python -m recbole_hellm``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    shell_complete,
)

from recbole_hellm.cli.command import HELP_NAMES, SettingsCommand
from recbole_hellm.cli.endings import (
    BROKEN_PIPE,
    INTERRUPTED,
    MISTAKE,
    PROGRAM,
    TERMINATED,
    Terminated,
    close_output,
    disk_sentence,
    tell,
    termination_raised,
)
from recbole_hellm.config.logs import configure_logging
from recbole_hellm.errors import ConfigError, HellmError, nearest
from recbole_hellm.progress import bars_visible

COMPLETION_VARIABLE = "_RECBOLE_HELLM_COMPLETE"
DEFAULT_COMMAND = "run"
# Command -> its module in `cli.commands`, which is imported only when the command is used.
COMMANDS = {
    "run": "run",
    "prepare": "prepare",
    "encode": "encode",
    "images": "images",
    "import": "importing",
    "tune": "tune",
    "compare": "compare",
    "recommend": "recommend",
    "report": "report",
    "serve": "using.serve",
    "export": "using.export",
    "check": "check",
    "models": "models",
}


def load_command(name: str) -> SettingsCommand:
    """The command of that name, one of :data:`COMMANDS`."""
    module = importlib.import_module(f"{__package__}.commands.{COMMANDS[name]}")
    command: SettingsCommand = module.command
    command.name = name
    return command


@click.command("help", help="Show this help, or the help of a command.")
@click.argument(
    "command",
    required=False,
    shell_complete=lambda ctx, param, text: [name for name in COMMANDS if name.startswith(text)],
)
@click.pass_context
def help_command(ctx: click.Context, command: str | None) -> None:
    """Show the help of the program or of a command."""
    root = ctx.find_root()
    if command is None:
        click.echo(root.get_help())
    else:
        PROGRAM_COMMAND.resolve_command(root, [command])[1].make_context(
            command, ["--help"], parent=root
        )


class Program(click.Group):
    """The program: one of its commands, or :data:`DEFAULT_COMMAND` where none is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands in the order of the help."""
        return [*COMMANDS, "help"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command; None if there is none of that name."""
        if cmd_name == "help":
            return help_command
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where an option, or nothing, comes first."""
        starts_with_option = bool(args) and args[0].startswith("-") and args[0] not in HELP_NAMES
        if starts_with_option or not (args or ctx.resilient_parsing):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's; raises :class:`ConfigError` if there is no such command."""
        if args[0] not in self.list_commands(ctx) and not ctx.resilient_parsing:
            raise ConfigError(
                f"Unknown command '{args[0]}'{nearest(args[0], COMMANDS)} "
                f"use one of {', '.join(COMMANDS)}."
            )
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands; options are those of the default command."""
        if not incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        command = load_command(DEFAULT_COMMAND)
        return command.shell_complete(click.Context(command), incomplete)


PROGRAM_COMMAND = Program(
    help="""HeLLM and the methods that it is compared with, as an extension of RecBole.

    Without a command, `run` is carried out: without a model, it trains Pop and HeLLM on a sample.

    \b
      recbole-hellm --model=HeLLM --dataset=Beauty
      recbole-hellm run --model=HeLLM --help        a command's options, and a model's
      tensorboard --logdir runs                     see runs
      torchrun --nproc_per_node=2 run_hellm.py --model=HeLLM --parallel=ddp
    """,
    epilog="""\b
    Completion of commands and options in bash (zsh and fish likewise):
      eval "$(_RECBOLE_HELLM_COMPLETE=bash_source recbole-hellm)"
    """,
    subcommand_metavar="[COMMAND] [--KEY=VALUE ...]",
    options_metavar="",
    context_settings={"help_option_names": list(HELP_NAMES), "max_content_width": 100},
)


class _Bash(BashComplete):
    """Bash takes ``--key=value`` apart into three words."""

    name = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        return [arg for arg in args if arg != "="], incomplete


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default, those of the process.

    Returns
    -------
    int
        0; 2 after a user's mistake or on a full disk, which one sentence on standard error
        explains; 130 after an interrupt, 143 after SIGTERM, 141 if nobody reads the output.
    """
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if arguments is None and instruction:
        add_completion_class(_Bash)
        return shell_complete(PROGRAM_COMMAND, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    configure_logging()
    # Tokenizers would otherwise warn about forks that DataLoader workers may make.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not bars_visible():  # those of transformers, too, which reads this when it is imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with termination_raised(), PROGRAM_COMMAND.make_context(PROGRAM, words) as ctx:
            PROGRAM_COMMAND.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    except (HellmError, click.UsageError) as error:
        if isinstance(error, click.UsageError):
            tell(f"{error.format_message().rstrip('.')}.")
        else:
            tell(str(error))
        return MISTAKE
    except BrokenPipeError:
        close_output()
        return BROKEN_PIPE
    except OSError as error:
        sentence = disk_sentence(error)
        if sentence is None:
            raise
        tell(sentence)
        return MISTAKE
    except KeyboardInterrupt as error:
        command = load_command(words[0] if words and words[0] in COMMANDS else DEFAULT_COMMAND)
        ended = isinstance(error, Terminated)
        word = "terminated" if ended else "interrupted"
        tell(f"{word}; {command.continues_with} goes on from here.")
        return TERMINATED if ended else INTERRUPTED
    return 0


def parse_options(arguments: Sequence[str], command: str = "run") -> dict[str, Any]:
    """The values of a command's options by key, as ``SettingsCommand.read`` gives them."""
    return load_command(command).read(arguments)
