"""Item features made elsewhere, brought into a dataset's feature store.

A file of features is a table with a row per item: ``.npy``, ``.pt``, ``.pth`` or ``.safetensors``,
read without unpickling anything. Which row is whose is told, in this order, by

- a file of tokens that is named, see :func:`recbole_hellm.data.features.row_tokens.read_rows`;
- ``i_id_mapping.csv`` beside the files, as MMRec writes it;
- the tokens themselves, if they are whole numbers and the files are MMRec's: a folder's, or beside
  that mapping;
- the rank of the token, see :class:`recbole_hellm.data.features.embedding_files.ItemTableFile`.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_hellm.config.settings import require, setting
from recbole_hellm.data.features.embedding_files import ItemTableFile
from recbole_hellm.data.features.feature_files import manifest_path
from recbole_hellm.data.features.filling import filled
from recbole_hellm.data.features.row_tokens import Rows, read_mapping, read_rows
from recbole_hellm.data.features.store import feature_path, save_features
from recbole_hellm.data.interactions.atomic_files import STANDARD, AtomicSettings, read_tokens
from recbole_hellm.data.preparation.manifest import describe_source, describe_table
from recbole_hellm.data.preparation.row_counts import MOST_LOST, RowCounts
from recbole_hellm.data.preparation.summary import command, rows_table, share
from recbole_hellm.errors import DataError, FeatureError

logger = logging.getLogger(__name__)

SUFFIXES = (".npy", ".pt", ".pth", ".safetensors")
FOLDER_MARK = "_feat"  # MMRec's image_feat.npy
FOLDER_ROWS = "i_id_mapping.csv"
_BY_RANK = "rank of the token"
_SAID = {_BY_RANK: "order of the item tokens, sorted as texts (--tokens=FILE tells another)"}


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
    allow_unmatched: bool = setting(
        False, "Accept that more than a tenth of the items have no row; they get the mean."
    )
    force: bool = setting(False, "Replace features of the same name.")

    def validate_relations(self) -> None:
        """Check that there is something to import; raises :class:`ConfigError`."""
        require(bool(self.features), "import needs features; name them: --features=FILE_OR_FOLDER.")


@dataclasses.dataclass(frozen=True)
class Imported:
    """One feature set: `path` of the matrix of `items` rows and `dim` columns, and counts of rows.

    `missing` rows were filled with the mean, `zeros` are zero in every column and were left so,
    `dropped` rows belong to no item of the dataset. `counts` says it of all rows of `file`.
    """

    path: Path
    items: int
    dim: int
    missing: int
    zeros: int
    dropped: int
    file: str = dataclasses.field(default="", compare=False)
    counts: RowCounts = dataclasses.field(default_factory=RowCounts, compare=False)
    rows_by: str = dataclasses.field(default="", compare=False)

    def describe(self) -> str:
        """A line for people."""
        counts = f"{self.missing:,} filled, {self.zeros:,} zero, {self.dropped:,} dropped"
        return f"Features: {self.path} ({self.items:,} items, {self.dim:,} dimensions; {counts})"

    @property
    def name(self) -> str:
        """The name for the setting ``features``."""
        return self.path.stem


def summary(imported: Sequence[Imported], directory: Path) -> str:
    """What became of all rows, where the features are, and the command that comes next."""
    tables = [describe_table(feature_set.file, feature_set.counts) for feature_set in imported]
    names = ", ".join(feature_set.name for feature_set in imported)
    lines = [feature_set.describe() for feature_set in imported]
    for feature_set in imported:
        without = share(feature_set.missing, feature_set.items)
        lines.append(f"Rows of {feature_set.file} are told apart by: {feature_set.rows_by}")
        lines.append(f"Items without a row in {feature_set.file}, which get the mean: {without}")
    step = command("run", directory, model="VBPR", features=f"[{names}]")
    return "\n".join([*lines, "", rows_table(tables), "", f"Next: {step}"])


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
        more than a tenth of the items have none and that is not allowed.
    """
    items = dataset_items(name, directory, settings)
    source = Path(settings.features).expanduser()
    sources = _sources(source, settings.modality)
    encoder = settings.encoder or ("mmrec" if source.is_dir() else "imported")
    for modality in sources:
        path = feature_path(directory, modality, encoder)
        # A matrix without a manifest is what a killed import left.
        if manifest_path(path).exists() and not settings.force:
            raise FeatureError(
                f"{path} is there already; replace it with --force, or give the new features "
                "another name with --encoder=NAME."
            )
    files = {
        modality: ItemTableFile.find("features", str(path)) for modality, path in sources.items()
    }
    rows = _rows_told(source, settings, items)
    # Nothing is written before everything is checked.
    read = {
        modality: _read_one(name, file, items, rows, settings) for modality, file in files.items()
    }
    feature_sets = []
    for modality, one in read.items():
        path = save_features(directory, modality, encoder, items, one.matrix, one.details)
        feature_sets.append(dataclasses.replace(one.imported, path=path))
        _warn(feature_sets[-1], name)
    return feature_sets


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


def _rows_told(source: Path, settings: ImportSettings, items: Sequence[str]) -> Rows | None:
    """Whose rows are, where that is told; None where it goes by rank."""
    if settings.tokens is not None:
        return read_rows(Path(settings.tokens).expanduser(), settings.encoding)
    path = (source if source.is_dir() else source.parent) / FOLDER_ROWS
    mapping = read_mapping(path, settings.encoding) if path.is_file() else None
    if mapping is not None and any(item in mapping.of for item in items):
        return mapping
    numbers = all(item.isdecimal() and str(int(item)) == item for item in items)
    # MMRec's own interactions name items by the numbers of their rows.
    if numbers and (mapping is not None or source.is_dir()):
        return Rows({item: int(item) for item in items}, "whole numbers")
    if mapping is None and (numbers or source.is_dir()):
        logger.warning(
            "No %s says which items the rows of %s belong to, so they are taken to be in the order "
            "of item tokens sorted as texts; if that is wrong, name the order with --tokens=FILE.",
            FOLDER_ROWS,
            source,
        )
    return mapping


@dataclasses.dataclass(frozen=True)
class _Read:
    """Features that are ready to be saved."""

    imported: Imported
    matrix: npt.NDArray[np.float32]
    details: dict[str, Any]


def _read_one(
    name: str,
    file: ItemTableFile,
    items: Sequence[str],
    rows: Rows | None,
    settings: ImportSettings,
) -> _Read:
    table = file.table()
    rows = rows or Rows(
        dict(zip(items, file.rows_by_rank(len(table), items), strict=True)), _BY_RANK
    )
    _check_rows(rows, len(table), file)
    there = [item for item in items if item in rows.of]
    _check_matched(name, file, items, there, rows, settings.allow_unmatched)
    values = table[[rows.of[item] for item in there]].float().numpy()
    finite = np.isfinite(values).all(axis=1)
    if not finite.all() and not settings.fill_missing:
        raise FeatureError(
            f"{file.name} holds NaN or infinity in the rows of {(~finite).sum()} items (first: "
            f"'{there[int(np.argmin(finite))]}'); mend the file, or give them the mean of the "
            "others with --fill_missing."
        )
    if not finite.any():
        raise FeatureError(
            f"{file.name} holds NaN or infinity in the rows of all items of '{name}'; name another "
            "file."
        )
    known = {item for item, usable in zip(there, finite, strict=True) if usable}
    usable_values = values if finite.all() else values[finite]
    matrix = filled(np.array([item in known for item in items]), usable_values)
    missing = [item for item in items if item not in known]
    zeros = int((~values[finite].any(axis=1)).sum())
    padding = len(table) - len(items) if rows.rule == _BY_RANK else 0
    if padding and bool(table[0].float().any()):
        logger.warning(
            "%s has one row more than '%s' has items, so the first is taken for padding, though it "
            "is not zero; --tokens=FILE tells whose the rows are.",
            file.name,
            name,
        )
    dropped = len(table) - len(there) - padding
    counts = RowCounts(read=len(table))
    counts.add("padding", padding)
    counts.add("of no item of the dataset", dropped)
    counts.add("NaN or infinity", int((~finite).sum()))
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
    shape = (len(items), matrix.shape[1], len(missing), zeros, dropped)
    rows_by = rows.path.name if rows.path else _SAID.get(rows.rule, rows.rule)
    imported = Imported(file.path, *shape, file.path.name, counts, rows_by)
    return _Read(imported, matrix, details)


def _check_matched(
    name: str,
    file: ItemTableFile,
    items: Sequence[str],
    there: Sequence[str],
    rows: Rows,
    allowed: bool,
) -> None:
    without = len(items) - len(there)
    if there and (allowed or without <= MOST_LOST * len(items)):
        return
    known = set(items)
    lacking = ", ".join(itertools.islice((item for item in items if item not in rows.of), 3))
    others = ", ".join(itertools.islice((token for token in rows.of if token not in known), 3))
    shown = f"such as {lacking}" + f"; it has ids such as {others}" * bool(others)
    accept = ", or give them the mean of the others with --allow_unmatched" * bool(there)
    raise FeatureError(
        f"{file.name} has rows for {len(there):,} of the {len(items):,} items of '{name}', and "
        f"none for {without:,} ({shown}); name with --tokens=FILE the items that its rows belong "
        f"to{accept}."
    )


def _warn(imported: Imported, name: str) -> None:
    """Tell of what may mean that a file is not what it is taken for."""
    file = imported.file
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
