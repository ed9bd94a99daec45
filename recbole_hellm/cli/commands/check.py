"""``recbole-hellm check``."""

from __future__ import annotations

from typing import Any

import click

from recbole_hellm.cli.arguments import ValueReader
from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import SettingOption
from recbole_hellm.errors import ConfigError

FOLDERS = SettingOption(
    "folders",
    "Runs, records or datasets, or folders of them, separated by commas; or name them without "
    "--folders.",
    "FOLDER[,FOLDER]",
    reader=ValueReader(is_text=True, raw=True),
)


def check(options: dict[str, Any]) -> str:
    """Verify the files of runs, records and datasets.

    Every file is compared with the checksum that was written with it, those of features too.
    Damaged files are listed, one a line; the exit status is 1 if there are any.

    \b
    Examples:
      recbole-hellm check runs dataset
      recbole-hellm check runs/sample/HeLLM
    """
    from recbole_hellm.checking import check as verify
    from recbole_hellm.config.settings import names

    folders = names(options.get("folders"))
    if not folders:
        raise ConfigError("check needs folders; name runs, records or datasets: check FOLDER.")
    findings = verify(folders)
    if findings.damaged:
        click.echo(str(findings))
        raise click.exceptions.Exit(1)
    return str(findings)


command = SettingsCommand(check, extra=[FOLDERS], positional="folders")
