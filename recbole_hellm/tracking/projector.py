"""Item embeddings and item texts for TensorBoard's PROJECTOR view."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor

from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.data.interactions.atomic_files import atomic_settings
from recbole_hellm.errors import DataError
from recbole_hellm.runs.directory import RunDirectory

logger = logging.getLogger(__name__)

MOST_ITEMS = 100_000
"""Most items for the projector; browsers cannot draw more."""
WIDTH = 80
"""Most characters of a text in the projector."""
COLOURS = 50
"""Most different texts of a column by which the projector can colour."""
PROJECTOR_CONFIG = "projector_config.pbtxt"  # the name that TensorBoard reads
ITEM_VECTORS, ITEM_TEXTS = "projector-items.bytes", "projector-items.tsv"


def write_projector(directory: RunDirectory, config: Any, dataset: Any, vectors: Tensor) -> None:
    """Write item embeddings and item texts for the PROJECTOR view.

    Parameters
    ----------
    directory : RunDirectory
    config : HellmConfig
        Names the folder of the item table.
    dataset : Dataset
        All interactions.
    vectors : Tensor
        [N, d], in the order of the dataset's item tokens.
    """
    if len(vectors) > MOST_ITEMS:
        logger.info(
            "%d items are too many for TensorBoard's projector; it shows at most %d.",
            len(vectors),
            MOST_ITEMS,
        )
        return
    if vectors.numel() == 0:
        return
    counts = np.bincount(
        dataset.histories.training(np.arange(len(dataset.histories.lengths)))[1],
        minlength=len(vectors) + 1,
    )
    try:
        folder = config.dataset_directory
        item_metadata = ItemMetadata.read(folder, config["dataset"], atomic_settings(config))
    except DataError as error:  # must not end a trained run
        logger.warning("The projector shows no titles: %s", error)
        item_metadata = ItemMetadata({}, {})
    texts = item_texts(dataset.item_tokens, item_metadata, counts[1 : len(vectors) + 1])
    lines = ["\t".join(row) for row in [list(texts), *texts.to_numpy().tolist()]]
    shown = ProjectorConfig()
    shown.embeddings.add(
        tensor_name=f"{config['model']} items",
        tensor_path=ITEM_VECTORS,
        metadata_path=ITEM_TEXTS,
        tensor_shape=vectors.shape,
    )
    directory.write_bytes(ITEM_VECTORS, _raw(vectors))
    directory.write_text(ITEM_TEXTS, "\n".join(lines) + "\n")
    directory.write_text(PROJECTOR_CONFIG, text_format.MessageToString(shown))


def item_texts(
    tokens: Iterable[str], item_metadata: ItemMetadata, popularity: np.ndarray
) -> pd.DataFrame:
    """The projector's texts of each item, one line each.

    Parameters
    ----------
    tokens : iterable of str
    item_metadata : ItemMetadata
    popularity : ndarray of int
        Training interactions of each item.

    Returns
    -------
    DataFrame
        Columns title and categories (if any are known), item and popularity. The first column is
        the projector's label; an item without a title has its token there. If there are too many
        different categories to colour by, ``category`` holds shortened category paths.
    """
    described = item_metadata.describe(str(token) for token in tokens)
    columns = {"item": described["item"]}
    if item_metadata.titles:
        columns = {
            "title": described["title"].where(
                described["title"].str.strip() != "", described["item"]
            )
        } | columns
    if item_metadata.categories:
        columns["categories"] = described["categories"]
        columns |= _colours(described["categories"])
    columns["popularity"] = pd.Series(popularity).astype(str)
    return pd.DataFrame({name: texts.map(_line) for name, texts in columns.items()})


def _colours(categories: pd.Series) -> dict[str, pd.Series]:
    """The longest prefixes of category paths that are few enough to colour by, if needed."""
    paths = [path.split(" > ") for path in categories]
    deepest = max(map(len, paths))
    for depth in range(deepest, 0, -1):
        cut = [" > ".join(path[:depth]) for path in paths]
        if len(set(cut)) <= COLOURS:
            return {} if depth == deepest else {"category": pd.Series(cut)}
    return {}


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _raw(vectors: Tensor) -> bytes:
    """Float32 values, row by row; less than half the size of a table of texts.

    TensorBoard reads a file as raw values if it is not valid UTF-8. The lowest byte of the first
    value is therefore set to a byte that never occurs in UTF-8.
    """
    raw = bytearray(vectors.detach().float().cpu().numpy().astype("<f4").tobytes())
    raw[0] = 0xFF
    return bytes(raw)
