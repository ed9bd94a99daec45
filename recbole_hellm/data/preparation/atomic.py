"""RecBole atomic files in canonical order, and the manifest that describes them.

A prepared dataset is three files in one folder:

- ``<name>.inter``: user_id, item_id, position, timestamp, rows in canonical order;
- ``<name>.item``: item_id, title, brand, categories, description, and image where an item has one;
  items in ascending token order;
- ``manifest.json``: counts, checksums and fingerprints; it is written first, so that files of
  different data, as a kill may leave them, never pass for a dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_hellm.data.interactions.held_out import MIN_INTERACTIONS
from recbole_hellm.data.interactions.splits import (
    POSITION,
    candidate_fingerprint,
    canonical_order,
    interactions_hash,
    leave_one_out_targets,
    split_fingerprint,
    tied_test_users,
    tied_validation_users,
)
from recbole_hellm.data.preparation.manifest import FORMAT_VERSION, MANIFEST
from recbole_hellm.data.preparation.versions import Replacing
from recbole_hellm.errors import DataError, StorageError
from recbole_hellm.storage.checksums import sealed
from recbole_hellm.storage.files import atomic_paths, writing
from recbole_hellm.storage.locks import locked
from recbole_hellm.storage.terminal import plain_text

TEXT_COLUMNS = ("title", "brand", "categories", "description")
_INTER_HEADER = ("user_id:token", "item_id:token", "position:float", "timestamp:float")
_ITEM_HEADER = (
    "item_id:token",
    "title:token_seq",
    "brand:token",
    "categories:token_seq",
    "description:token_seq",
)
IMAGE = "image"
_PATIENCE = 60.0  # seconds; writing takes a few


def write_atomic_dataset(
    name: str,
    interactions: pd.DataFrame,
    items: pd.DataFrame | None,
    directory: Path,
    sources: Sequence[Mapping[str, Any]],
    notes: Mapping[str, Any] | None = None,
    tables: Sequence[Mapping[str, Any]] = (),
    replacing: Replacing | None = None,
) -> dict[str, Any]:
    """Write the atomic files and the manifest of a dataset; readers never see half of them.

    Parameters
    ----------
    name : str
        The dataset's name, which RecBole wants to be the folder's name as well.
    interactions : DataFrame
        Columns user_id, item_id, timestamp; rows in any order.
    items : DataFrame or None
        Column item_id and any of title, brand, categories, description, image (an address or a
        path); others are left out. Categories are the elements of one path (a list of str). Items
        without interactions are left out, items without a row get empty texts. None writes no
        ``<name>.item``.
    directory : Path
        Created if absent; files of the same names are replaced.
    sources : sequence of mapping
        Where the data comes from, see
        :func:`recbole_hellm.data.preparation.manifest.describe_source`.
    notes : mapping, optional
        Anything JSON-serialisable that the manifest should keep.
    tables : sequence of mapping
        What became of the rows of these files, see
        :func:`recbole_hellm.data.preparation.manifest.describe_table`.
    replacing : Replacing, optional
        Whether other data may be replaced; by default it is.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    DataError
        If there are no interactions, a column is absent, an item has two rows, a token or time
        cannot be written, or other data must not be replaced.
    StorageError
        If the folder cannot be written to.

    Notes
    -----
    RecBole splits a token_seq at blanks. Texts are therefore plain words, and a category is one
    word with its blanks written as underscores: ``Hair_Care Styling_Products``.
    """
    if len(interactions) == 0:
        raise DataError(f"Dataset '{name}' has no interactions; nothing was written.")
    ordered = canonical_order(interactions, "user_id", "item_id", "timestamp")
    _check_tokens(ordered["user_id"].unique(), "user_id")
    candidates = sorted(_check_tokens(ordered["item_id"].unique(), "item_id"))
    targets = leave_one_out_targets(ordered, "user_id", "item_id")
    lengths = ordered["user_id"].value_counts()
    evaluated = ordered[ordered["user_id"].isin(targets["user"])]

    density = len(ordered) / (len(lengths) * len(candidates))
    columns = [ordered[key].tolist() for key in ("user_id", "item_id", POSITION, "timestamp")]
    contents = {
        f"{name}.inter": _table(_INTER_HEADER, zip(*columns, strict=True)),
    }
    if items is not None:
        contents[f"{name}.item"] = _item_table(items, candidates)
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "users": len(lengths),
        "items": len(candidates),
        "interactions": len(ordered),
        "density": density,
        "sparsity": 1.0 - density,
        "users_below_three": int((lengths < MIN_INTERACTIONS).sum()),
        "longest_history": int(lengths.max()),
        "users_with_tied_test": tied_test_users(evaluated, "user_id", "timestamp"),
        "users_with_tied_validation": tied_validation_users(evaluated, "user_id", "timestamp"),
        "split_fingerprint": split_fingerprint(
            targets["user"].tolist(), targets["valid"].tolist(), targets["test"].tolist()
        ),
        "candidate_fingerprint": candidate_fingerprint(candidates),
        "content": interactions_hash(ordered, "user_id", "item_id"),
        "sources": [dict(source) for source in sources],
        "tables": [dict(table) for table in tables],
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()},
        "notes": dict(notes or {}),
    }
    document = sealed(manifest)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    replace_files(name, Path(directory), contents, text.encode(), replacing or Replacing())
    return document


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty: None, NA or NaN."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _item_table(items: pd.DataFrame, candidates: Sequence[str]) -> bytes:
    if "item_id" not in items.columns:
        raise DataError("The item table has no column 'item_id'; add it.")
    tokens = items["item_id"].astype(str).tolist()
    if len(set(tokens)) != len(tokens):
        double = items["item_id"].astype(str).duplicated().tolist().index(True)
        raise DataError(f"Item '{tokens[double]}' has two rows in the item table; keep one.")
    fields = (*TEXT_COLUMNS, IMAGE)
    columns = [
        items[key].tolist() if key in items.columns else [None] * len(tokens) for key in fields
    ]
    texts = dict(zip(tokens, zip(*columns, strict=True), strict=True))
    rows = []
    for token in candidates:
        title, brand, categories, description, image = texts.get(token, (None,) * len(fields))
        path = "" if is_missing(categories) else _words(categories)
        rows.append([token, _text(title), _text(brand), path, _text(description), _text(image)])
    header = (*_ITEM_HEADER, f"{IMAGE}:token")
    width = len(header) if any(row[-1] for row in rows) else len(_ITEM_HEADER)
    return _table(header[:width], (row[:width] for row in rows))


def _words(categories: Any) -> str:
    elements = [categories] if isinstance(categories, str) else categories
    return _quotable(" ".join("_".join(_text(element).split()) for element in elements).strip())


def _text(value: Any) -> str:
    """`value` on one line: any run of white space, tabs and line ends included, is one blank."""
    if is_missing(value):
        return ""
    # Lone surrogates, which UTF-8 cannot hold, show that something was there.
    clean = plain_text(str(value).encode("utf-8", "replace").decode("utf-8"))
    return _quotable(" ".join(clean.split()))


def _quotable(text: str) -> str:
    # RecBole's reader takes a quote at the very start of a cell for a quoted cell.
    return f" {text}" if text.startswith('"') else text


def _check_tokens(tokens: Iterable[str], field: str) -> list[str]:
    checked = list(tokens)
    for token in checked:
        if not token.strip() or set(token) & set("\t\r\n\0"):
            raise DataError(
                f"The {field} {token!a} cannot be written to an atomic file; ids must be non-empty "
                "and free of tabs and line ends."
            )
    return checked


def _table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> bytes:
    lines = ["\t".join(header), *("\t".join(map(str, row)) for row in rows)]
    return ("\n".join(lines) + "\n").encode("utf-8")


def replace_files(
    name: str,
    directory: Path,
    contents: Mapping[str, bytes],
    manifest: bytes,
    replacing: Replacing,
) -> None:
    """Write a dataset's files, of which readers never see half.

    Parameters
    ----------
    name, directory : str, Path
        The dataset's name and folder; the folder is made if absent.
    contents : mapping of str to bytes
        ``<name>.inter``, and ``<name>.item`` where the dataset has items' texts.
    manifest : bytes
        Their manifest.
    replacing : Replacing
        Whether other data may be replaced.

    Raises
    ------
    DataError
        If other data must not be replaced, or another process does not finish writing.
    StorageError
        If the folder cannot be written to.
    """
    try:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            f"The folder {directory} cannot be made ({error.strerror}); correct --data_path."
        ) from error
    busy = DataError(
        f"Another process is writing the dataset in {directory}; give the same command again when "
        "it has ended."
    )
    # The manifest comes first: whatever a kill leaves, a file of other data is known by it.
    files = {MANIFEST: manifest, **contents}
    with locked(directory / ".prepare.lock", busy, timeout=_PATIENCE):
        replacing.make_room(name, directory, contents)
        with atomic_paths([directory / file for file in files]) as temporaries:
            for temporary, data in zip(temporaries, files.values(), strict=True):
                temporary.write_bytes(data)
            if f"{name}.item" not in files:
                (directory / f"{name}.item").unlink(missing_ok=True)  # of other data
