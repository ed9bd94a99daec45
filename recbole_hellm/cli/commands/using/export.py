"""``recbole-hellm export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.arguments import ValueReader
from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import SettingOption
from recbole_hellm.errors import ConfigError

if TYPE_CHECKING:
    from recbole_hellm.exporting.settings import ExportSettings

RUN = SettingOption(
    "run", "Directory of a finished run.", "RUN", reader=ValueReader(is_text=True, raw=True)
)


def export(options: dict[str, Any]) -> str:
    """Write a finished run for servers of your own.

    faiss writes vectors of users and items whose inner products are the model's scores, and an
    index. onnx writes a sequential model as a function from histories to scores. Both are checked
    against the model before they are kept.

    \b
    Examples:
      recbole-hellm export --run=runs/sample/LightGCN --format=faiss
      recbole-hellm export --run=runs/sample/SASRec --format=onnx --output=sasrec
    """
    from recbole_hellm.exporting import export as exporting

    if "run" not in options:
        raise ConfigError("export needs a finished run; name its directory with --run=RUN.")
    settings = _settings().from_config(options)
    return exporting.summary(exporting.export(options["run"], settings, show_progress=True))


def _settings() -> type[ExportSettings]:
    from recbole_hellm.exporting.settings import ExportSettings

    return ExportSettings


command = SettingsCommand(export, extra=[RUN], settings=_settings)
