"""Amazon 2014 5-core categories: raw review and metadata files to atomic files.

The upstream files are ``reviews_<Category>_5.json`` (one JSON object a line) and
``meta_<Category>.json`` (one Python literal a line), gzipped or plain (METHOD 1.1). Literals are
parsed by :func:`ast.literal_eval`, which runs no code.
"""

from __future__ import annotations

import ast
import dataclasses
import gzip
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_hellm.data.atomic import TEXT_COLUMNS, describe_source, write_atomic_dataset
from recbole_hellm.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

RAW_DIR_VARIABLE = "HELLM_RAW_DIR"
_TAG = re.compile(r"<.*?>", re.DOTALL)
_LEADING_ASIN = re.compile(rb"""\s*\{\s*(['"])asin\1\s*:\s*(['"])([\w.-]+)\2\s*[,}]""")
_UNPARSABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


@dataclasses.dataclass(frozen=True)
class AmazonCategory:
    """One 5-core category.

    Attributes
    ----------
    name, upstream : str
        This package's dataset name, and the name in the upstream file names.
    users, items, interactions : int
        What the 5-core files are known to hold (PROTOCOL, "Data").
    """

    name: str
    upstream: str
    users: int
    items: int
    interactions: int

    @property
    def reviews_file(self) -> str:
        """Name of the unpacked review file."""
        return f"reviews_{self.upstream}_5.json"

    @property
    def meta_file(self) -> str:
        """Name of the unpacked metadata file."""
        return f"meta_{self.upstream}.json"


CATALOGUE = {
    category.name: category
    for category in (
        AmazonCategory("Beauty", "Beauty", 22_363, 12_101, 198_502),
        AmazonCategory("Toys", "Toys_and_Games", 19_412, 11_924, 167_597),
        AmazonCategory("Sports", "Sports_and_Outdoors", 35_598, 18_357, 296_337),
    )
}


@dataclasses.dataclass(frozen=True)
class RawFiles:
    """Where the two raw files of a category are."""

    reviews: Path
    meta: Path


def find_raw_files(name: str, raw_dir: Path | None = None) -> RawFiles:
    """Look for a category's raw files, gzipped or plain.

    Parameters
    ----------
    name : str
        A key of :data:`CATALOGUE`.
    raw_dir : Path, optional
        Searched first, then the folder in the environment variable HELLM_RAW_DIR; in each the
        folder itself and its subfolder of the upstream name.

    Raises
    ------
    ConfigError
        If `name` is unknown.
    DataError
        If no folder holds both files.
    """
    category = _category(name)
    variable = os.environ.get(RAW_DIR_VARIABLE)
    roots = [Path(root).expanduser() for root in (raw_dir, variable) if root]
    for root in roots:
        reviews = _find(root, category, category.reviews_file)
        meta = _find(root, category, category.meta_file)
        if reviews is not None and meta is not None:
            logger.info("Reading %s and %s.", reviews, meta)
            return RawFiles(reviews, meta)
    searched = f"not both in {' or '.join(map(str, roots))}" if roots else "and no folder is set"
    raise DataError(
        f"Dataset '{name}' needs {category.reviews_file}.gz and {category.meta_file}.gz, {searched}"
        f"; put them into one folder, plain or gzipped, and name it with --raw_dir or the "
        f"environment variable {RAW_DIR_VARIABLE}."
    )


def prepare_amazon(
    name: str, directory: Path, raw_dir: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Make the atomic files of a category from its raw files (METHOD 1.1 to 1.4).

    Parameters
    ----------
    name : str
        A key of :data:`CATALOGUE`, also the name of the atomic files.
    directory : Path
        Where to write them, see :func:`recbole_hellm.data.atomic.write_atomic_dataset`.
    raw_dir : Path, optional
        Where the raw files are, see :func:`find_raw_files`.
    progress : bool
        Show progress bars.

    Returns
    -------
    dict
        The manifest; its notes count dropped duplicates and missing texts.

    Raises
    ------
    ConfigError
        If `name` is unknown.
    DataError
        If a raw file is missing, or a line of it is malformed.
    """
    category, raw = _category(name), find_raw_files(name, raw_dir)
    interactions = read_reviews(raw.reviews, progress)
    rows = len(interactions)
    interactions = interactions.drop_duplicates(ignore_index=True)
    items = read_meta(raw.meta, set(interactions["item_id"]), progress)
    n_items = interactions["item_id"].nunique()
    notes: dict[str, Any] = {
        "category": category.upstream,
        "duplicates_dropped": rows - len(interactions),
        "items_without_metadata": n_items - len(items),
    }
    for column in TEXT_COLUMNS:
        notes[f"items_without_{column}"] = n_items - int(items[column].map(bool).sum())
    sources = [describe_source(raw.reviews), describe_source(raw.meta)]
    manifest = write_atomic_dataset(name, interactions, items, directory, sources, notes)
    if manifest["users_below_three"]:
        logger.warning(
            "%d users of '%s' have fewer than three interactions; they are kept for training and "
            "have no validation or test item.",
            manifest["users_below_three"],
            name,
        )
    expected = {key: getattr(category, key) for key in ("users", "items", "interactions")}
    counted = {key: manifest[key] for key in expected}
    if counted != expected:
        logger.warning(
            "'%s' holds %s where the published 5-core files hold %s; results on it compare with "
            "no published ones.",
            name,
            _counts(counted),
            _counts(expected),
        )
    return manifest


def read_reviews(path: Path, progress: bool = True) -> pd.DataFrame:
    """Users, items and times of a review file, in its order.

    Returns
    -------
    DataFrame
        Columns user_id, item_id (str) and timestamp (int64, Unix seconds).

    Raises
    ------
    DataError
        If a line is no JSON object with reviewerID, asin and a whole unixReviewTime.
    """
    users, items, times = [], [], []
    for number, line in _lines(path, progress):
        try:
            record = json.loads(line)
        except _UNPARSABLE as error:
            raise DataError(_malformed(path, number, f"is no JSON ({error})")) from error
        _check_record(record, ("reviewerID", "asin"), path, number)
        time = record.get("unixReviewTime")
        # Beyond 2^53 a float, which is what RecBole reads, would be another number.
        if type(time) is not int or abs(time) >= 2**53:
            problem = f"has unixReviewTime {time!a}, which is no whole number of seconds"
            raise DataError(_malformed(path, number, problem))
        users.append(record["reviewerID"])
        items.append(record["asin"])
        times.append(time)
    if not users:
        raise DataError(f"{path} holds no reviews; download it again.")
    timestamps = np.array(times, dtype=np.int64)
    return pd.DataFrame({"user_id": users, "item_id": items, "timestamp": timestamps})


def read_meta(path: Path, wanted: set[str], progress: bool = True) -> pd.DataFrame:
    """Texts of the `wanted` items in a metadata file, in its order.

    Lines that open with the asin of another item are skipped unparsed: the file of Sports has half
    a million of them.

    Returns
    -------
    DataFrame
        Columns item_id, title, brand, categories (elements of the first path; a list of str) and
        description, tags removed (METHOD 1.4); '' and [] where missing. Of several lines for one
        item the first counts.

    Raises
    ------
    DataError
        If a parsed line is no Python literal of a dict with an asin, or has texts of another kind.
    """
    rows: dict[str, tuple[str, str, str, list[str], str]] = {}
    for number, line in _lines(path, progress):
        leading = _LEADING_ASIN.match(line)
        if leading and leading.group(3).decode() not in wanted:
            continue
        try:
            record = ast.literal_eval(line.decode("utf-8").strip())
        except _UNPARSABLE as error:
            problem = f"is no Python literal ({type(error).__name__}: {error})"
            raise DataError(_malformed(path, number, problem)) from error
        _check_record(record, ("asin",), path, number)
        asin = record["asin"]
        if asin not in wanted or asin in rows:
            continue
        title, brand, description = (
            _text(record.get(key), key, path, number) for key in ("title", "brand", "description")
        )
        rows[asin] = (asin, title, brand, _first_path(record, path, number), description)
    return pd.DataFrame(list(rows.values()), columns=["item_id", *TEXT_COLUMNS])


def _lines(path: Path, progress: bool) -> Iterator[tuple[int, bytes]]:
    """Non-blank lines with their numbers from 1."""
    number = 0
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            bar = tqdm(file, desc=path.name, unit=" lines", unit_scale=True, disable=not progress)
            for number, line in enumerate(bar, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read beyond line {number} ({error}); download it again."
        ) from error


def _check_record(record: Any, keys: tuple[str, ...], path: Path, number: int) -> None:
    if not isinstance(record, dict):
        raise DataError(_malformed(path, number, f"is a {type(record).__name__}, not an object"))
    for key in keys:
        value = record.get(key)
        # Not printable are tabs and line ends, and what UTF-8 cannot hold.
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise DataError(_malformed(path, number, f"has no {key} (non-empty, printable text)"))


def _first_path(record: dict[Any, Any], path: Path, number: int) -> list[str]:
    paths = record.get("categories") or []
    if not isinstance(paths, list) or (paths and not isinstance(paths[0], list)):
        raise DataError(_malformed(path, number, "has categories that are no list of lists"))
    first_path = paths[0] if paths else []
    elements = [_text(element, "categories", path, number) for element in first_path]
    return [element for element in elements if element]


def _text(value: Any, key: str, path: Path, number: int) -> str:
    if value is None:
        return ""
    if not isinstance(value, (str, int, float)):
        raise DataError(_malformed(path, number, f"has a {key} that is no text"))
    clean = _TAG.sub("", str(value)).encode("utf-8", "replace").decode("utf-8")
    return " ".join(clean.split())


def _malformed(path: Path, number: int, problem: str) -> str:
    return f"{path}, line {number} {problem}; mend the line, or download the file again."


def _category(name: str) -> AmazonCategory:
    if name not in CATALOGUE:
        raise ConfigError(
            f"Dataset '{name}' is no known Amazon category; use one of {', '.join(CATALOGUE)}."
        )
    return CATALOGUE[name]


def _find(root: Path, category: AmazonCategory, file: str) -> Path | None:
    folders = (root, root / category.upstream)
    places = [folder / f"{file}{suffix}" for folder in folders for suffix in (".gz", "")]
    return next((place for place in places if place.is_file()), None)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {key}" for key, count in counts.items())
