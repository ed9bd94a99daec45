"""``recbole-hellm serve``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from recbole_hellm.cli.arguments import ValueReader
from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import SettingOption
from recbole_hellm.errors import ConfigError

if TYPE_CHECKING:
    from recbole_hellm.serving.settings import ServeSettings

RUNS = SettingOption(
    "run",
    "Directories of finished runs of one dataset, separated by commas or each with a --run.",
    "RUN[,RUN]",
    reader=ValueReader(is_text=True, raw=True),
    repeatable=True,
)


def serve(options: dict[str, Any]) -> str:
    """Show recommendations on a local page and as JSON.

    On the page, one chooses a user of the finished runs or composes a history. It needs no
    network, and only this machine can open it unless --host says otherwise. Ctrl+C ends it.

    \b
    Examples:
      recbole-hellm serve --run=runs/sample/SASRec
      recbole-hellm serve --run=runs/sample/SASRec --run=runs/sample/LightGCN --port=0
    """
    from recbole_hellm.serving.server import prepare_server

    if "run" not in options:
        raise ConfigError("serve needs finished runs; name a directory with --run=RUN.")
    server = prepare_server(options["run"], _settings().from_config(options))
    click.echo(f"Serving at {server.url} until Ctrl+C; JSON's schema is {server.url}openapi.json")
    server.serve()
    return "Ended."


def _settings() -> type[ServeSettings]:
    from recbole_hellm.serving.settings import ServeSettings

    return ServeSettings


command = SettingsCommand(serve, extra=[RUNS], settings=_settings)
