"""Titles of a dataset's items, as texts for a language model."""

from __future__ import annotations

from typing import Any

from recbole_hellm.data.features.item_metadata import TITLE_COLUMNS, ItemMetadata
from recbole_hellm.data.interactions.atomic_files import atomic_settings
from recbole_hellm.errors import DataError
from recbole_hellm.storage.checksums import content_hash


def item_titles(dataset: Any) -> list[str]:
    """The title of each item, in the order of ``dataset.item_tokens``; '' for none.

    Raises
    ------
    DataError
        If the dataset has no item table, the table cannot be read, or it has no title.
    """
    config = dataset.config
    folder, name = config.dataset_directory, config["dataset"]
    metadata = ItemMetadata.read(folder, name, atomic_settings(config))
    titles = [metadata.title(str(token)).strip() for token in dataset.item_tokens]
    if not any(titles):
        columns = ", ".join(TITLE_COLUMNS)
        raise DataError(
            f"item_text=title needs titles, and {folder / f'{name}.item'} has none for the items "
            f"of '{name}'; write them into its column title:token_seq (or one of {columns})."
        )
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
