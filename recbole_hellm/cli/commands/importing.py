"""``recbole-hellm import``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import DATASET, dataset_directory

if TYPE_CHECKING:
    from recbole_hellm.data.features.importing import ImportSettings


def import_(options: dict[str, Any]) -> str:
    """Import item features that were made elsewhere.

    A file is a matrix with one row per item; a folder holds one file per modality.

    \b
    Examples:
      recbole-hellm import --dataset=Beauty --features=clip.npy --tokens=asins.txt --encoder=clip
      recbole-hellm import --dataset=Baby --features=mmrec/baby
    """
    from recbole_hellm.data.features.importing import import_features, summary

    name, directory = dataset_directory(options)
    feature_sets = import_features(name, directory, _settings().from_config(options))
    return summary(feature_sets, directory)


def _settings() -> type[ImportSettings]:
    from recbole_hellm.data.features.importing import ImportSettings

    return ImportSettings


command = SettingsCommand(import_, extra=[DATASET], shared=["data_path"], settings=_settings)
