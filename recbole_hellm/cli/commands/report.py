"""``recbole-hellm report``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.arguments import ValueReader
from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import SettingOption
from recbole_hellm.errors import ConfigError

if TYPE_CHECKING:
    from recbole_hellm.reporting.report import ReportSettings

RUNS = SettingOption(
    "runs",
    "Directories of finished runs, separated by commas; or name them without --runs.",
    "RUN[,RUN]",
    reader=ValueReader(is_text=True, raw=True),
)


def report(options: dict[str, Any]) -> str:
    """Write one HTML page about finished runs.

    The page shows metrics, learning curves, costs and recommendations, and needs no network.

    \b
    Examples:
      recbole-hellm report runs/sample/Pop runs/sample/HeLLM --output=report.html
    """
    from recbole_hellm.config.settings import names
    from recbole_hellm.reporting.report import write_report

    runs = names(options.get("runs"))
    if not runs:
        raise ConfigError("report needs finished runs; name their directories: report RUN [RUN].")
    return f"Report: {write_report(runs, _settings().from_config(options))}"


def _settings() -> type[ReportSettings]:
    from recbole_hellm.reporting.report import ReportSettings

    return ReportSettings


command = SettingsCommand(report, extra=[RUNS], settings=_settings, positional="runs")
