"""``recbole-hellm prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import DATASET, dataset_directory
from recbole_hellm.errors import ConfigError

if TYPE_CHECKING:
    from recbole_hellm.data.preparation.prepare import PrepareSettings


def prepare(options: dict[str, Any]) -> str:
    """Make the files of a dataset.

    Raw files of a dataset that is known by name are downloaded if they are in no folder. With
    --interactions, the dataset is made of your own files: CSV, TSV, Parquet or JSON lines.

    \b
    Examples:
      recbole-hellm prepare --dataset=Beauty
      recbole-hellm prepare --dataset=shop --interactions=log.csv --items=items.csv
    """
    from recbole_hellm.data.downloads.mirrors import Mirrors
    from recbole_hellm.data.preparation.atomic import describe
    from recbole_hellm.data.preparation.prepare import prepare_dataset, prepare_files

    name, directory = dataset_directory(options)
    settings = _settings().from_config(options)
    if settings.interactions is not None:
        if "dataset" not in options:
            raise ConfigError("--interactions needs a name for the dataset: --dataset=NAME.")
        return describe(prepare_files(name, directory, settings))
    raw_dir = Path(settings.raw_dir) if settings.raw_dir else None
    mirrors = Mirrors(settings.mirrors)
    return describe(prepare_dataset(name, directory, raw_dir, mirrors, settings.k_core))


def _settings() -> type[PrepareSettings]:
    from recbole_hellm.data.preparation.prepare import PrepareSettings

    return PrepareSettings


command = SettingsCommand(prepare, own=[DATASET], shared=["data_path"], settings=_settings)
