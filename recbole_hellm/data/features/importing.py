"""Item features made elsewhere, brought into a dataset's feature store.

A file of features is a table with a row per item: ``.npy``, ``.pt``, ``.pth`` or ``.safetensors``,
read without unpickling anything. Which row is whose is told, in this order, by

- a file of tokens that is named, see :func:`read_rows`;
- ``i_id_mapping.csv`` beside the files, as MMRec writes it;
- the tokens themselves, if they are whole numbers and the files are MMRec's: a folder's, or beside
  that mapping;
- the rank of the token, see :class:`recbole_hellm.data.features.embedding_files.ItemTableFile`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_hellm.config.settings import require, setting
from recbole_hellm.data.features.embedding_files import ItemTableFile
from recbole_hellm.data.features.store import check_tokens, feature_path, save_features
from recbole_hellm.data.interactions.atomic_files import STANDARD, AtomicSettings, read_tokens
from recbole_hellm.data.preparation.manifest import describe_source
from recbole_hellm.data.preparation.table_files import TableFile
from recbole_hellm.errors import DataError, FeatureError

logger = logging.getLogger(__name__)

SUFFIXES = (".npy", ".pt", ".pth", ".safetensors")
FOLDER_MARK = "_feat"  # MMRec's image_feat.npy
FOLDER_ROWS = "i_id_mapping.csv"
_ROW_NAMES = ("row", "rownumber", "index", "rowindex", "rowid")


class ImportSettings(AtomicSettings):
    """What is imported, and as what."""

    features: str = setting("", "A file, or a folder with <modality>_feat.npy files.")
    modality: str | None = setting(
        None,
        "Of a file, by default what its name says (text_feat.npy), else image; of a folder, the "
        "only one to import.",
    )
    encoder: str | None = setting(
        None, "Name of the features: by default imported, for a folder mmrec."
    )
    tokens: str | None = setting(None, "File that says which item each row belongs to.")
    fill_missing: bool = setting(False, "Take rows with NaN or infinity for missing ones.")
    force: bool = setting(False, "Replace features of the same name.")

    def validate_relations(self) -> None:
        """Check that there is something to import; raises :class:`ConfigError`."""
        require(bool(self.features), "import needs features; name them: --features=FILE_OR_FOLDER.")


@dataclasses.dataclass(frozen=True)
class Imported:
    """One feature set: `path` of the matrix of `items` rows and `dim` columns, and counts of rows.

    `missing` rows were filled with the mean, `zeros` are zero in every column and were left so,
    `dropped` rows belong to no item of the dataset.
    """

    path: Path
    items: int
    dim: int
    missing: int
    zeros: int
    dropped: int

    def describe(self) -> str:
        """A line for people."""
        counts = f"{self.missing:,} filled, {self.zeros:,} zero, {self.dropped:,} dropped"
        return f"Features: {self.path} ({self.items:,} items, {self.dim:,} dimensions; {counts})"


def import_features(name: str, directory: Path, settings: ImportSettings) -> list[Imported]:
    """Import a file of features, or each of a folder.

    Parameters
    ----------
    name, directory : str, Path
        The dataset's name and its folder with ``<name>.inter``.
    settings : ImportSettings

    Returns
    -------
    list of Imported
        By modality.

    Raises
    ------
    DataError
        If the dataset or a file cannot be read, or has another number of rows than there are items.
    FeatureError
        If features of the name are there, rows cannot be told apart, have NaN or infinity, or
        most items have none.
    """
    items = dataset_items(name, directory, settings)
    source = Path(settings.features).expanduser()
    sources = _sources(source, settings.modality)
    encoder = settings.encoder or ("mmrec" if source.is_dir() else "imported")
    for modality in sources:
        path = feature_path(directory, modality, encoder)
        if path.exists() and not settings.force:
            raise FeatureError(
                f"{path} is there already; replace it with --force, or give the new features "
                "another name with --encoder=NAME."
            )
    files = {
        modality: ItemTableFile.find("features", str(path)) for modality, path in sources.items()
    }
    rows = _rows_told(source, settings.tokens, items)
    return [
        _import_one(name, directory, modality, encoder, file, items, rows, settings.fill_missing)
        for modality, file in files.items()
    ]


def dataset_items(name: str, directory: Path, settings: AtomicSettings = STANDARD) -> list[str]:
    """Tokens of all items with interactions, sorted.

    Raises
    ------
    DataError
        If ``<name>.inter`` is missing or has no item_id.
    """
    path = directory / f"{name}.inter"
    if not path.is_file():
        raise DataError(f"{path} does not exist; prepare the dataset '{name}' first.")
    return read_tokens(path, settings.ITEM_ID_FIELD, settings)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Whose the rows of a table are.

    Attributes
    ----------
    of : mapping of str to int
        Numbers of rows, from 0, by item token.
    rule : str
        How that is known, for the manifest.
    count : int, optional
        How many rows there must be; None where that is not told.
    path : Path, optional
        The file that tells it.
    """

    of: Mapping[str, int]
    rule: str
    count: int | None = None
    path: Path | None = None


def read_rows(path: Path) -> Rows:
    """Whose rows are, from a file.

    A ``.json`` file is a list of item tokens in the order of rows. A ``.csv`` or ``.tsv`` file has
    two columns, item tokens and numbers of rows from 0, under a header or none; any delimiter is
    recognised. Any other file has a token per line, in the order of rows.

    Raises
    ------
    DataError
        If it cannot be read.
    FeatureError
        If a token or a number of a row occurs twice, or is none.
    """
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return _read_mapping(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        tokens = json.loads(text) if kind == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"tokens={path} cannot be read as item tokens ({error}); name a text file with one per "
            "line, a .json list, or a .csv or .tsv with item and row number."
        ) from error
    if not isinstance(tokens, list) or not all(isinstance(token, (str, int)) for token in tokens):
        raise FeatureError(f'tokens={path} is no list of item tokens; write ["A", "B", ...].')
    plain = check_tokens([str(token).strip() for token in tokens], path)
    if "" in plain:
        raise FeatureError(
            f"tokens={path}: the token of row {plain.index('')} is empty; write one for every row."
        )
    return Rows({token: row for row, token in enumerate(plain)}, "tokens", len(plain), path)


def _read_mapping(path: Path) -> Rows:
    table = TableFile(path).read(lambda _: True, progress=False)
    if len(table.columns) != 2:
        raise FeatureError(
            f"{path} has {len(table.columns)} columns ({', '.join(table.columns[:6])}); keep two: "
            "item token and row number."
        )
    lines = table.frame.fillna("").astype(str).to_numpy().tolist()
    lines = [[cell.strip() for cell in line] for line in lines]
    if any(name.isdecimal() for name in table.columns):  # there is no header
        lines.insert(0, list(table.columns))
    columns = list(zip(*lines, strict=True))
    numbers = [all(cell.isdecimal() for cell in column) for column in columns] or [False, False]
    named = "".join(filter(str.isalnum, table.columns[0].lower())) in _ROW_NAMES
    if not any(numbers):
        bad = next((cell for cell in (line[1] for line in lines) if not cell.isdecimal()), "")
        raise FeatureError(
            f"{path} has no column of row numbers ({table.columns[1]} has {bad!r}); give each item "
            "the number of its row, from 0."
        )
    first = numbers[0] and (named or not numbers[1])
    tokens, rows = columns if not first else columns[::-1]
    check_tokens(tokens, path)
    of = {token: int(row) for token, row in zip(tokens, rows, strict=True)}
    taken: dict[int, str] = {}
    for token, row in of.items():
        if taken.setdefault(row, token) != token:
            raise FeatureError(
                f"{path} gives '{taken[row]}' and '{token}' the one row {row}; give each its own."
            )
    return Rows(of, "mapping", None, path)


def _sources(source: Path, modality: str | None) -> dict[str, Path]:
    if not source.is_dir():
        named = source.stem.endswith(FOLDER_MARK)
        return {modality or (source.stem.removesuffix(FOLDER_MARK) if named else "image"): source}
    files: dict[str, Path] = {}
    for path in sorted(source.iterdir()):
        if path.suffix not in SUFFIXES or not path.stem.endswith(FOLDER_MARK):
            continue
        name = path.stem.removesuffix(FOLDER_MARK)
        if modality not in (None, name):
            continue
        if name in files:
            raise FeatureError(
                f"{source} has {files[name].name} and {path.name} for the one modality {name}; "
                "keep one of them."
            )
        files[name] = path
    if not files:
        raise FeatureError(
            f"{source} has no {modality or 'image'}{FOLDER_MARK}.npy"
            f"{'' if modality else ', text_feat.npy'} or the like; name a file with --features."
        )
    return files


def _rows_told(source: Path, tokens: str | None, items: Sequence[str]) -> Rows | None:
    """Whose rows are, where that is told; None where it goes by rank."""
    if tokens is not None:
        return read_rows(Path(tokens).expanduser())
    path = (source if source.is_dir() else source.parent) / FOLDER_ROWS
    mapping = _read_mapping(path) if path.is_file() else None
    if mapping is not None and any(item in mapping.of for item in items):
        return mapping
    numbers = all(item.isdecimal() and str(int(item)) == item for item in items)
    # MMRec's own interactions name items by the numbers of their rows.
    if numbers and (mapping is not None or source.is_dir()):
        return Rows({item: int(item) for item in items}, "whole numbers")
    if mapping is None and (numbers or source.is_dir()):
        logger.warning(
            "No %s tells whose the rows of %s are, so they are taken for those of item tokens "
            "sorted as texts; --tokens=FILE tells it.",
            FOLDER_ROWS,
            source,
        )
    return mapping


def _import_one(
    name: str,
    directory: Path,
    modality: str,
    encoder: str,
    file: ItemTableFile,
    items: Sequence[str],
    rows: Rows | None,
    fill_missing: bool,
) -> Imported:
    table = file.table()
    rows = rows or Rows(
        dict(zip(items, file.rows_by_rank(len(table), items), strict=True)), "rank of the token"
    )
    _check_rows(rows, len(table), file)
    there = [item for item in items if item in rows.of]
    values = table[[rows.of[item] for item in there]].float().numpy()
    finite = np.isfinite(values).all(axis=1)
    if not finite.all() and not fill_missing:
        raise FeatureError(
            f"{file.name} holds NaN or infinity in the rows of {(~finite).sum()} items (first: "
            f"'{there[int(np.argmin(finite))]}'); mend the file, or give them the mean of the "
            "others with --fill_missing."
        )
    known = {item: row for row, item in enumerate(there) if finite[row]}
    if 2 * len(known) < len(items):
        raise FeatureError(
            f"{file.name} has rows for {len(known):,} of the {len(items):,} items of '{name}', so "
            "it is most likely another dataset's; say with --tokens=FILE whose its rows are."
        )
    matrix = _filled(values, known, items)
    missing = [item for item in items if item not in known]
    zeros = int((~values[finite].any(axis=1)).sum())
    padding = len(table) - len(items) if rows.rule == "rank of the token" else 0
    dropped = len(table) - len(there) - padding
    details: dict[str, Any] = {
        "revision": f"sha256:{file.sha256}",
        "missing": missing,
        "source": {"file": file.path.name, "sha256": file.sha256},
        "rows_by": rows.rule,
        "tokens": None if rows.path is None else describe_source(rows.path),
        "not_finite": int((~finite).sum()),
        "zeros": zeros,
        "dropped": dropped,
    }
    path = save_features(directory, modality, encoder, items, matrix, details)
    imported = Imported(path, len(items), matrix.shape[1], len(missing), zeros, dropped)
    _warn(imported, file.path.name, name)
    return imported


def _warn(imported: Imported, file: str, name: str) -> None:
    """Tell of what may mean that a file is not what it is taken for."""
    if imported.missing:
        text = "%s: %d items of '%s' have no row, and get the mean of the others."
        logger.warning(text, file, imported.missing, name)
    if imported.zeros:
        text = "%s: %d rows are zero throughout, as those of items without a picture often are."
        logger.warning(text, file, imported.zeros)
    if imported.dropped:
        text = "%s: %d rows are of no item of '%s', and are left out."
        logger.warning(text, file, imported.dropped, name)


def _check_rows(rows: Rows, given: int, file: ItemTableFile) -> None:
    if rows.count not in (None, given):
        raise FeatureError(
            f"{rows.path} names {rows.count:,} items, and {file.name} has {given:,} rows; name one "
            "item per row, or items and row numbers in a .csv or .tsv."
        )
    token, last = max(rows.of.items(), key=lambda pair: pair[1], default=("", -1))
    if last >= given:
        raise FeatureError(
            f"{file.name} has {given:,} rows from 0, and item '{token}' has row {last:,} by "
            f"{rows.path or 'its token'}; use the files of one dataset."
        )


def _filled(
    values: npt.NDArray[np.float32], known: Mapping[str, int], items: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Rows in the order of `items`, those that are not `known` with the mean of those that are."""
    sound = values if len(known) == len(values) else values[list(known.values())]
    mean = sound.mean(axis=0, dtype=np.float64).astype(np.float32)
    matrix = np.tile(mean, (len(items), 1))
    at = [row for row, item in enumerate(items) if item in known]
    matrix[at] = sound
    return matrix
