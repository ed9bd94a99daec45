"""``recbole-hellm images``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import DATASET, dataset_directory

if TYPE_CHECKING:
    from recbole_hellm.data.downloads.images import ImageSettings


def images(options: dict[str, Any]) -> str:
    """Download the pictures of a dataset's items.

    Pictures that are already there are kept, so the same command goes on after a kill.

    \b
    Examples:
      recbole-hellm images --dataset=Beauty
      recbole-hellm images --dataset=Beauty --workers=16 --retry_missing
    """
    from recbole_hellm.data.downloads.images import fetch_images

    name, directory = dataset_directory(options)
    return fetch_images(name, directory, _settings().from_config(options)).describe()


def _settings() -> type[ImageSettings]:
    from recbole_hellm.data.downloads.images import ImageSettings

    return ImageSettings


command = SettingsCommand(images, extra=[DATASET], shared=["data_path"], settings=_settings)
