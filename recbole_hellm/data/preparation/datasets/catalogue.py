"""Datasets that are known by name: Amazon's 5-core categories of 2014, 2018 and 2023.

Raw files are looked for in folders first; those that are in none are downloaded.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from recbole_hellm.data.downloads.http import DownloadError, RetryPolicy, download
from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.errors import ConfigError, DataError, nearest

logger = logging.getLogger(__name__)

RAW_DIR_VARIABLE = "HELLM_RAW_DIR"
Edition = Literal["amazon2014", "amazon2018", "amazon2023"]


@dataclasses.dataclass(frozen=True)
class AmazonCategory:
    """One 5-core category of one edition.

    Attributes
    ----------
    name, upstream : str
        This package's dataset name, and the name in the upstream file names.
    users, items, interactions : int, optional
        What the 5-core files are known to hold (docs/method.md, Table 2; the authors' page).
    edition : str
    """

    name: str
    upstream: str
    users: int | None = None
    items: int | None = None
    interactions: int | None = None
    edition: Edition = "amazon2014"

    @property
    def reviews_file(self) -> str:
        """Name of the unpacked review file."""
        return {
            "amazon2014": f"reviews_{self.upstream}_5.json",
            "amazon2018": f"{self.upstream}_5.json",
            "amazon2023": f"{self.upstream}.csv",
        }[self.edition]

    @property
    def meta_file(self) -> str:
        """Name of the unpacked metadata file."""
        suffix = "jsonl" if self.edition == "amazon2023" else "json"
        return f"meta_{self.upstream}.{suffix}"

    @property
    def expected(self) -> dict[str, int]:
        """The counts that are known."""
        counts = {key: getattr(self, key) for key in ("users", "items", "interactions")}
        return {key: count for key, count in counts.items() if count is not None}


_2014 = (
    AmazonCategory("Beauty", "Beauty", 22_363, 12_101, 198_502),
    AmazonCategory("Toys", "Toys_and_Games", 19_412, 11_924, 167_597),
    AmazonCategory("Sports", "Sports_and_Outdoors", 35_598, 18_357, 296_337),
    *(
        AmazonCategory(name, name, interactions=interactions)
        for name, interactions in {
            "Amazon_Instant_Video": 37_126,
            "Apps_for_Android": 752_937,
            "Automotive": 20_473,
            "Baby": 160_792,
            "Books": 8_898_041,
            "CDs_and_Vinyl": 1_097_592,
            "Cell_Phones_and_Accessories": 194_439,
            "Clothing_Shoes_and_Jewelry": 278_677,
            "Digital_Music": 64_706,
            "Electronics": 1_689_188,
            "Grocery_and_Gourmet_Food": 151_254,
            "Health_and_Personal_Care": 346_355,
            "Home_and_Kitchen": 551_682,
            "Kindle_Store": 982_619,
            "Movies_and_TV": 1_697_533,
            "Musical_Instruments": 10_261,
            "Office_Products": 53_258,
            "Patio_Lawn_and_Garden": 13_272,
            "Pet_Supplies": 157_836,
            "Tools_and_Home_Improvement": 134_476,
            "Video_Games": 231_780,
        }.items()
    ),
)
_SINCE_2018 = (
    "All_Beauty Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl Cell_Phones_and_Accessories "
    "Clothing_Shoes_and_Jewelry Electronics Gift_Cards Grocery_and_Gourmet_Food Home_and_Kitchen "
    "Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV "
    "Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies Software "
    "Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games"
)
_ONLY_2018 = "AMAZON_FASHION Appliances Digital_Music Luxury_Beauty Prime_Pantry"
_ONLY_2023 = "Baby_Products Beauty_and_Personal_Care Health_and_Household"

CATALOGUE = {
    category.name: category
    for category in (
        *_2014,
        *(
            AmazonCategory(f"{name}-2018", name, edition="amazon2018")
            for name in sorted(f"{_SINCE_2018} {_ONLY_2018}".split())
        ),
        *(
            AmazonCategory(f"{name}-2023", name, edition="amazon2023")
            for name in sorted(f"{_SINCE_2018} {_ONLY_2023}".split())
        ),
    )
}


def category_named(name: str) -> AmazonCategory:
    """The category of a dataset name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in CATALOGUE:
        raise ConfigError(
            f"Dataset '{name}' is no known Amazon category{nearest(name, CATALOGUE)} "
            f"use {names_told()}."
        )
    return CATALOGUE[name]


def names_told() -> str:
    """The names, in a few words."""
    first = ", ".join(category.name for category in _2014)
    return f"one of {first}, or CATEGORY-2018 or CATEGORY-2023, such as Video_Games-2023"


@dataclasses.dataclass(frozen=True)
class RawFiles:
    """Where the two raw files of a category are."""

    reviews: Path
    meta: Path


def find_raw_files(
    name: str, raw_dir: Path | None = None, others: Sequence[Path] = ()
) -> RawFiles | None:
    """Look for a category's raw files, gzipped or plain.

    Parameters
    ----------
    name : str
        A key of :data:`CATALOGUE`.
    raw_dir : Path, optional
        Searched first, then the folder in the environment variable HELLM_RAW_DIR, then `others`;
        in each its subfolders of the dataset's and the upstream name, and the folder itself.

    Returns
    -------
    RawFiles or None
        None if no folder holds both.

    Raises
    ------
    ConfigError
        If `name` is unknown.
    """
    category = category_named(name)
    for root in (*_folders(raw_dir), *others):
        reviews = _find(root, category, category.reviews_file)
        meta = _find(root, category, category.meta_file)
        if reviews is not None and meta is not None:
            logger.info("Reading %s and %s.", reviews, meta)
            return RawFiles(reviews, meta)
    return None


def raw_files(
    name: str,
    directory: Path,
    raw_dir: Path | None = None,
    mirrors: Mirrors | None = None,
    progress: bool = True,
    retry_policy: RetryPolicy | None = None,
) -> RawFiles:
    """A category's raw files, downloaded if they are in no folder.

    Parameters
    ----------
    name : str
        A key of :data:`CATALOGUE`.
    directory : Path
        The dataset's folder. Downloads go to `raw_dir`, else to the folder in HELLM_RAW_DIR, else
        to the subfolder ``raw`` of this one; a file that is there already is not fetched again.
    raw_dir : Path, optional
        See :func:`find_raw_files`.
    mirrors : Mirrors, optional
        Where files come from; by default what the environment and the package say.
    progress : bool
        Show progress bars.
    retry_policy : RetryPolicy, optional

    Raises
    ------
    ConfigError
        If `name` is unknown.
    DataError
        If files are missing and cannot be downloaded; it says which to put where.
    """
    category = category_named(name)
    own = Path(directory) / "raw"
    found = find_raw_files(name, raw_dir, [own])
    if found is not None:
        return found
    mirrors = mirrors or Mirrors()
    folders = _folders(raw_dir)
    target = folders[0] if folders else own
    if category.edition != "amazon2014":  # metadata of 2014 and 2018 have the same file names
        target = target / category.name
    if mirrors.forbidden:
        raise DataError(_told(category, folders, "downloads are switched off (mirrors=none)"))
    paths = []
    for part, file in (("reviews", category.reviews_file), ("meta", category.meta_file)):
        path = _find(target, category, file)
        if path is None:
            path, packed = target / f"{file}.gz", f"{file}.gz"
            urls = mirrors.urls(category.edition, packed)
            urls = urls or mirrors.urls(f"{category.edition}-{part}", packed)
            logger.info("Downloading %s to %s.", packed, target)
            try:
                download(urls, path, mirrors.known(packed), progress, retry_policy)
            except DownloadError as error:
                problem = str(error).rstrip(".") if urls else f"no address of {packed} is known"
                raise DataError(_told(category, folders, problem)) from error
        paths.append(path)
    return RawFiles(*paths)


def _told(category: AmazonCategory, folders: Sequence[Path], problem: str) -> str:
    searched = f"not both in {' or '.join(map(str, folders))}" if folders else "no folder is set"
    return (
        f"Dataset '{category.name}' needs {category.reviews_file}.gz and {category.meta_file}.gz "
        f"({searched}; {problem}): put them into one folder, plain or gzipped, and name it with "
        f"--raw_dir or the environment variable {RAW_DIR_VARIABLE}."
    )


def _folders(raw_dir: Path | None) -> list[Path]:
    variable = os.environ.get(RAW_DIR_VARIABLE)
    return [Path(root).expanduser() for root in (raw_dir, variable) if root]


def _find(root: Path, category: AmazonCategory, file: str) -> Path | None:
    folders = (root / category.name, root, root / category.upstream)
    places = [folder / f"{file}{suffix}" for folder in folders for suffix in (".gz", "")]
    return next((place for place in places if place.is_file()), None)
