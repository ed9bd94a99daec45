"""``recbole-hellm prepare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import DATASET, dataset_directory
from recbole_hellm.errors import ConfigError

if TYPE_CHECKING:
    from recbole_hellm.data.preparation.settings import PrepareSettings


def prepare(options: dict[str, Any]) -> str:
    """Make the files of a dataset.

    Raw files of a dataset that is known by name are downloaded if they are in no folder. With
    --interactions, the dataset is made of your own files: CSV, TSV, Parquet or JSON lines. It tells
    what became of every row.

    \b
    Examples:
      recbole-hellm prepare --dataset=Beauty
      recbole-hellm prepare --dataset=ml-1m --raw_dir=downloads
      recbole-hellm prepare --dataset=shop --interactions=log.csv --items=items.csv
    """
    from recbole_hellm.data.preparation.prepare import prepare as prepare_dataset
    from recbole_hellm.data.preparation.summary import describe, next_steps

    name, directory = dataset_directory(options)
    settings = _settings().from_config(options)
    for key in ("interactions", "family"):
        if getattr(settings, key) is not None and "dataset" not in options:
            raise ConfigError(f"--{key} needs a name for the dataset: --dataset=NAME.")
    manifest = prepare_dataset(name, directory, settings)
    return f"{describe(manifest)}\n\n{next_steps(manifest, directory)}"


def _settings() -> type[PrepareSettings]:
    from recbole_hellm.data.preparation.settings import PrepareSettings

    return PrepareSettings


command = SettingsCommand(prepare, extra=[DATASET], shared=["data_path"], settings=_settings)
