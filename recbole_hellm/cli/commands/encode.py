"""``recbole-hellm encode``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_hellm.cli.command import SettingsCommand
from recbole_hellm.cli.options import DATASET, dataset_directory

if TYPE_CHECKING:
    from recbole_hellm.data.features.encoding import EncodeSettings


def encode(options: dict[str, Any]) -> str:
    """Encode the texts and pictures of a dataset's items as features.

    After a kill, the same command goes on where it stopped.

    \b
    Examples:
      recbole-hellm encode --dataset=Beauty
      recbole-hellm encode --dataset=Beauty --text_encoder=bert --image_encoder=clip
    """
    from recbole_hellm.data.features.encoding import encode_features

    name, directory = dataset_directory(options)
    paths = encode_features(name, directory, _settings().from_config(options))
    return "\n".join(f"Features: {path}" for path in paths)


def _settings() -> type[EncodeSettings]:
    from recbole_hellm.data.features.encoding import EncodeSettings

    return EncodeSettings


command = SettingsCommand(encode, extra=[DATASET], shared=["data_path"], settings=_settings)
