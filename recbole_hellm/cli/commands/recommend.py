"""``recbole-hellm recommend``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.arguments import ValueReader
from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import SettingOption
from recbole_hellm.errors import ConfigError

if TYPE_CHECKING:
    from recbole_hellm.reporting.recommendations import RecommendSettings

RUN = SettingOption(
    "run", "Directory of a finished run.", "RUN", reader=ValueReader(is_text=True, raw=True)
)


def recommend(options: dict[str, Any]) -> str:
    """Show what the model of a finished run recommends.

    Choose the users with one of --user, --users, --all_users and --history.

    \b
    Examples:
      recbole-hellm recommend --run=runs/sample/HeLLM --user=U0001 --topk=10
      recbole-hellm recommend --run=runs/sample/HeLLM --history=I0719,I1267
      recbole-hellm recommend --run=runs/sample/HeLLM --all_users --output=all.parquet
    """
    from recbole_hellm.reporting.recommendations import listing

    if "run" not in options:
        raise ConfigError("recommend needs a finished run; name its directory with --run=RUN.")
    return listing(options["run"], _settings().from_config(options))


def _settings() -> type[RecommendSettings]:
    from recbole_hellm.reporting.recommendations import RecommendSettings

    return RecommendSettings


command = SettingsCommand(recommend, extra=[RUN], settings=_settings)
