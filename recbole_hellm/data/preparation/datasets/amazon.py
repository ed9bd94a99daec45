"""Amazon's 5-core categories: raw review and metadata files to atomic files.

The upstream files of 2014 are ``reviews_<Category>_5.json`` (one JSON object a line) and
``meta_<Category>.json`` (one Python literal a line), gzipped or plain (docs/method.md, Raw files).
Literals are parsed by :func:`ast.literal_eval`, which runs no code. Those of 2018 and 2023 are read
by their layouts.
"""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.preparation.assembling import assemble
from recbole_hellm.data.preparation.atomic import IMAGE, TEXT_COLUMNS
from recbole_hellm.data.preparation.datasets.catalogue import category_named, raw_files
from recbole_hellm.data.preparation.layouts import read_interactions, read_item_table
from recbole_hellm.data.preparation.tables import UNPARSABLE, numbered_lines
from recbole_hellm.errors import DataError

logger = logging.getLogger(__name__)

_TAG = re.compile(r"<.*?>", re.DOTALL)
_LEADING_ASIN = re.compile(rb"""\s*\{\s*(['"])asin\1\s*:\s*(['"])([\w.-]+)\2\s*[,}]""")


def prepare_amazon(
    name: str,
    directory: Path,
    raw_dir: Path | None = None,
    progress: bool = True,
    mirrors: Mirrors | None = None,
    k_core: int | None = None,
) -> dict[str, Any]:
    """Make the atomic files of a category from its raw files (docs/method.md, Raw files).

    Parameters
    ----------
    name : str
        A key of :data:`~recbole_hellm.data.preparation.datasets.catalogue.CATALOGUE`, also the
        name of the atomic files.
    directory : Path
        Where to write them, see :func:`recbole_hellm.data.preparation.atomic.write_atomic_dataset`.
    raw_dir : Path, optional
        Where the raw files are; see
        :func:`recbole_hellm.data.preparation.datasets.catalogue.raw_files`.
    progress : bool
        Show progress bars.
    mirrors : Mirrors, optional
        Where files come from that are in no folder.
    k_core : int, optional
        See :func:`recbole_hellm.data.preparation.kcore.k_core`.

    Returns
    -------
    dict
        The manifest; its notes count dropped duplicates and missing texts.

    Raises
    ------
    ConfigError
        If `name` is unknown.
    DataError
        If a raw file is missing and cannot be downloaded, or a line of it is malformed.
    """
    category = category_named(name)
    raw = raw_files(name, directory, raw_dir, mirrors, progress)
    if category.edition == "amazon2014":
        interactions = read_reviews(raw.reviews, progress)
    else:
        interactions, _ = read_interactions(raw.reviews, category.edition, progress=progress)

    def items(wanted: set[str]) -> pd.DataFrame:
        if category.edition == "amazon2014":
            return read_meta(raw.meta, wanted, progress)
        return read_item_table(raw.meta, wanted, category.edition, progress=progress)

    notes = {"category": category.upstream, "layout": category.edition}
    sources = [raw.reviews, raw.meta]
    manifest = assemble(name, directory, interactions, items, sources, notes, k_core)
    counted = {key: manifest[key] for key in category.expected}
    if counted != category.expected:
        logger.warning(
            "'%s' holds %s where the published 5-core files hold %s; results on it compare with "
            "no published ones.",
            name,
            _counts(counted),
            _counts(category.expected),
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
    for number, line in numbered_lines(path, progress):
        try:
            record = json.loads(line)
        except UNPARSABLE as error:
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
        description, tags removed (docs/method.md, Item texts), and image, an address; '' and []
        where missing. Of several lines for one item the first counts.

    Raises
    ------
    DataError
        If a parsed line is no Python literal of a dict with an asin, or has texts of another kind.
    """
    rows: dict[str, tuple[str, str, str, list[str], str, str]] = {}
    for number, line in numbered_lines(path, progress):
        leading = _LEADING_ASIN.match(line)
        if leading and leading.group(3).decode() not in wanted:
            continue
        try:
            record = ast.literal_eval(line.decode("utf-8").strip())
        except UNPARSABLE as error:
            problem = f"is no Python literal ({type(error).__name__}: {error})"
            raise DataError(_malformed(path, number, problem)) from error
        _check_record(record, ("asin",), path, number)
        asin = record["asin"]
        if asin not in wanted or asin in rows:
            continue
        title, brand, description = (
            _text(record.get(key), key, path, number) for key in ("title", "brand", "description")
        )
        address = record.get("imUrl")  # what is no text is no address, and no harm
        image = address if isinstance(address, str) else ""
        rows[asin] = (asin, title, brand, _first_path(record, path, number), description, image)
    return pd.DataFrame(list(rows.values()), columns=["item_id", *TEXT_COLUMNS, IMAGE])


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


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {key}" for key, count in counts.items())
