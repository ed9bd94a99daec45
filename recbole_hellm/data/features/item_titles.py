"""Titles of items, as a language model reads them.

Markup ``<...>`` is cut, as from the texts of other encoders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_hellm.data.features.encoders.text import without_markup
from recbole_hellm.data.features.item_metadata import TITLE_COLUMNS, ItemMetadata
from recbole_hellm.data.interactions.atomic_files import STANDARD, AtomicSettings, atomic_settings
from recbole_hellm.errors import DataError
from recbole_hellm.storage.checksums import content_hash


def read_titles(directory: Path, name: str, settings: AtomicSettings = STANDARD) -> dict[str, str]:
    """Titles in a dataset's item table by item token, '' for an item without title.

    Parameters
    ----------
    directory, name : Path, str
        The dataset's folder and name.
    settings : AtomicSettings
        How the item table is written.

    Raises
    ------
    DataError
        If the item table cannot be read, is missing or has no titles.
    """
    titles = ItemMetadata.read(directory, name, settings).titles
    read = {token: without_markup(title) for token, title in titles.items()}
    if not any(read.values()):
        raise _no_titles(directory, name)
    return read


def item_titles(dataset: Any) -> list[str]:
    """The title of each item, in the order of ``dataset.item_tokens``; '' for none.

    Raises
    ------
    DataError
        As :func:`read_titles`, and if no item of the dataset has a title.
    """
    config = dataset.config
    folder, name = config.dataset_directory, config["dataset"]
    read = read_titles(folder, name, atomic_settings(config))
    titles = [read.get(str(token), "") for token in dataset.item_tokens]
    if not any(titles):
        raise _no_titles(folder, name)
    return titles


def titles_hash(dataset: Any) -> str:
    """Hash of the items' titles, by token; part of the id of a run that reads them.

    Raises
    ------
    DataError
        As :func:`item_titles`.
    """
    tokens = map(str, dataset.item_tokens)
    return content_hash(dict(zip(tokens, item_titles(dataset), strict=True)), length=64)


def _no_titles(directory: Path, name: str) -> DataError:
    return DataError(
        f"{directory / f'{name}.item'} has no titles of the items of '{name}', which the language "
        f"model is to read (columns {', '.join(TITLE_COLUMNS)}); write them into its column "
        "title:token_seq."
    )
