"""Get a dataset and its features ready by name, making only what is missing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from recbole_hellm.data.amazon import CATALOGUE, prepare_amazon
from recbole_hellm.data.atomic import read_items
from recbole_hellm.data.encoders.text import encode_text
from recbole_hellm.data.features import list_features
from recbole_hellm.data.sample import generate_sample
from recbole_hellm.errors import DataError, FeatureError
from recbole_hellm.registry import nearest

logger = logging.getLogger(__name__)

SAMPLE = "sample"


def prepare_dataset(name: str, directory: Path, raw_dir: Path | None = None) -> dict[str, Any]:
    """Make the atomic files of a dataset this package knows by name.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    DataError
        If the name is unknown or raw files are missing or malformed.
    """
    if name == SAMPLE:
        return generate_sample(directory)
    if name in CATALOGUE:
        return prepare_amazon(name, directory, raw_dir)
    raise DataError(
        f"Unknown dataset '{name}'{nearest(name, [SAMPLE, *CATALOGUE])} use one of "
        f"{', '.join([SAMPLE, *CATALOGUE])}, or put RecBole atomic files into {directory}."
    )


def ensure_dataset(config: Any) -> None:
    """Prepare `config`'s dataset if its interactions are not there."""
    directory, name = Path(config["data_path"]), config["dataset"]
    if not (directory / f"{name}.inter").is_file():
        logger.info("Preparing dataset '%s' in %s.", name, directory)
        raw_dir = Path(config["raw_dir"]) if config["raw_dir"] else None
        prepare_dataset(name, directory, raw_dir)


def ensure_features(config: Any) -> None:
    """Encode item texts if `config` names no features and there are none for text.

    An encoder that is named (not ``auto``) is run unless its features are there.

    Raises
    ------
    FeatureError
        If there are neither features nor item texts to make them from.
    """
    directory, name = Path(config["data_path"]), config["dataset"]
    if config["features"] is not None:
        return
    present = {info.modality for info in list_features(directory)}
    if "text" in present and config["text_encoder"] == "auto":
        return
    if (directory / f"{name}.item").is_file():
        encode_dataset(name, directory, config["text_encoder"])
    elif not present:
        raise FeatureError(
            f"Dataset '{name}' has neither item texts ({name}.item) nor features in "
            f"{directory / 'features'}; add one of them."
        )


def encode_dataset(name: str, directory: Path, encoder: str = "auto", force: bool = False) -> Path:
    """Encode a dataset's item texts into its feature store."""
    if not (directory / f"{name}.item").is_file():
        raise DataError(f"{directory / f'{name}.item'} is missing, so there is no text to encode.")
    return encode_text(directory, read_items(directory, name), encoder, force)
