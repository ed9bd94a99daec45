"""Get a dataset and its features ready by name, making only what is missing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from recbole_hellm.config.settings import Settings, require, setting
from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.features.encoders.text import encode_text
from recbole_hellm.data.features.store import list_features
from recbole_hellm.data.preparation.assembling import assemble
from recbole_hellm.data.preparation.atomic import read_items
from recbole_hellm.data.preparation.datasets.amazon import prepare_amazon
from recbole_hellm.data.preparation.datasets.catalogue import CATALOGUE, names_told
from recbole_hellm.data.preparation.layouts import Columns, read_interactions, read_item_table
from recbole_hellm.data.preparation.sample import generate_sample
from recbole_hellm.errors import ConfigError, DataError, FeatureError, nearest

logger = logging.getLogger(__name__)

SAMPLE = "sample"


class PrepareSettings(Settings):
    """What `prepare` is told."""

    raw_dir: str | None = setting(None, "Where raw files are, and are downloaded to.")
    mirrors: str | tuple[str, ...] | None = setting(
        None, "Addresses of raw files, a file that lists them, or none."
    )
    k_core: int | None = setting(None, "Keep users and items with this many interactions.", ge=0)
    interactions: str | None = setting(None, "File of interactions of your own.")
    items: str | None = setting(None, "File of items of your own.")
    layout: Literal["auto", "table", "amazon2014", "amazon2018", "amazon2023"] = setting(
        "auto", "What the columns of interactions mean; auto goes by their names."
    )
    user_column: str | None = setting(None, "Column of users.")
    item_column: str | None = setting(None, "Column of items.")
    time_column: str | None = setting(None, "Column of times.")

    def validate_relations(self) -> None:
        """Check that no option is without effect; raises :class:`ConfigError`."""
        own = ("items", "user_column", "item_column", "time_column")
        if self.interactions is None:
            given = [key for key in own if getattr(self, key) is not None]
            given += ["layout"] if self.layout != "auto" else []
            require(not given, f"{', '.join(given)} needs --interactions=FILE beside it.")
        else:
            given = [key for key in ("raw_dir", "mirrors") if getattr(self, key) is not None]
            require(not given, f"{', '.join(given)} is for datasets by name; remove it.")


def prepare_dataset(
    name: str,
    directory: Path,
    raw_dir: Path | None = None,
    mirrors: Mirrors | None = None,
    k_core: int | None = None,
) -> dict[str, Any]:
    """Make the atomic files of a dataset this package knows by name.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    DataError
        If the name is unknown, or raw files are missing and cannot be downloaded, or malformed.
    """
    if name == SAMPLE:
        require(k_core is None, "k_core is not for the sample; remove it.")
        return generate_sample(directory)
    if name in CATALOGUE:
        return prepare_amazon(name, directory, raw_dir, mirrors=mirrors, k_core=k_core)
    raise DataError(
        f"Unknown dataset '{name}'{nearest(name, [SAMPLE, *CATALOGUE])} use {SAMPLE}, "
        f"{names_told()}, make it from files of your own with `recbole-hellm prepare "
        f"--dataset={name} --interactions=FILE`, or put RecBole atomic files into {directory}."
    )


def prepare_files(
    name: str, directory: Path, settings: PrepareSettings, progress: bool = True
) -> dict[str, Any]:
    """Make the atomic files of a dataset from a table of interactions, and one of items if given.

    Returns
    -------
    dict
        The manifest; its notes say which layout was read.

    Raises
    ------
    ConfigError
        If the name belongs to a dataset that this package makes, or is no name.
    DataError
        If a file is missing or malformed, or a column is not found.
    """
    require(settings.interactions is not None, "prepare_files needs interactions.")
    if name == SAMPLE or name in CATALOGUE:
        raise ConfigError(
            f"'{name}' is a dataset that this package makes; give yours another name, for "
            f"example --dataset=my{name}."
        )
    if not name or name in (".", "..") or not name.isprintable() or set(name) & set("/\\:"):
        raise ConfigError(f"--dataset={name!r} cannot name a folder; use letters and digits.")
    source = Path(str(settings.interactions)).expanduser()
    columns = Columns(settings.user_column, settings.item_column, settings.time_column)
    interactions, layout = read_interactions(source, settings.layout, columns, progress)
    sources, read_items = [source], None
    if settings.items is not None:
        table = Path(settings.items).expanduser()
        sources.append(table)

        def read_items(wanted: set[str]) -> pd.DataFrame:
            found = read_item_table(table, wanted, layout, settings.item_column, progress)
            if found.empty:
                raise DataError(
                    f"{table} has none of the {len(wanted)} items of {source}; correct "
                    "--item_column, or name another file."
                )
            return found

    notes = {"layout": layout}
    return assemble(name, directory, interactions, read_items, sources, notes, settings.k_core)


def ensure_dataset(config: Any) -> None:
    """Prepare `config`'s dataset if its interactions are not there."""
    directory, name = config.dataset_directory, config["dataset"]
    if not (directory / f"{name}.inter").is_file():
        logger.info("Preparing dataset '%s' in %s.", name, directory)
        raw_dir = Path(config["raw_dir"]) if config["raw_dir"] else None
        prepare_dataset(name, directory, raw_dir, Mirrors(config["mirrors"]))


def ensure_features(config: Any) -> None:
    """Encode item texts if `config` names no features and there are none for text.

    An encoder that is named (not ``auto``) is run unless its features are there.

    Raises
    ------
    FeatureError
        If there are neither features nor item texts to make them from.
    """
    directory, name = config.dataset_directory, config["dataset"]
    if config["features"] is not None:
        return
    present = {info.modality for info in list_features(directory)}
    if "text" in present and config["text_encoder"] == "auto":
        return
    if (directory / f"{name}.item").is_file():
        progress = "show_progress" not in config or bool(config["show_progress"])
        encode_dataset(
            name,
            directory,
            config["text_encoder"],
            progress=progress,
            device=str(config["device"]),
        )
    elif not present:
        raise FeatureError(
            f"Dataset '{name}' has neither item texts ({name}.item) nor features in "
            f"{directory / 'features'}; add one of them."
        )


def encode_dataset(
    name: str,
    directory: Path,
    encoder: str = "auto",
    force: bool = False,
    progress: bool = True,
    **options: Any,
) -> Path:
    """Encode a dataset's item texts into its feature store.

    Parameters
    ----------
    name, directory : str, Path
        The dataset's name and folder.
    encoder, force, progress, **options
        See :func:`recbole_hellm.data.features.encoders.text.encode_text`.

    Raises
    ------
    DataError
        If the dataset has no item table.
    FeatureError
        If its texts cannot be encoded.
    """
    if not (directory / f"{name}.item").is_file():
        raise DataError(f"{directory / f'{name}.item'} is missing, so there is no text to encode.")
    return encode_text(directory, read_items(directory, name), encoder, force, progress, **options)
