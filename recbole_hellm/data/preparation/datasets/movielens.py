"""MovieLens 100k, 1M and 20M; genres become categories.

100k has ``u.data`` and ``u.item``, 1M ``ratings.dat`` and ``movies.dat``, both without headers;
20M has ``ratings.csv`` and ``movies.csv``. All are read from the zip archives, too.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd

from recbole_hellm.data.preparation.datasets.base import DatasetFamily, RawFile, Totals
from recbole_hellm.data.preparation.delimited_text import TextFormat
from recbole_hellm.data.preparation.packed_files import is_utf8
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.data.preparation.table_files import TableFile
from recbole_hellm.data.preparation.table_readers import read_item_table
from recbole_hellm.storage.text_files import UTF8

# From https://grouplens.org/datasets/movielens/; not tried yet.
_ADDRESSES = ("https://files.grouplens.org/datasets/movielens/{file}",)
# Columns of u.item, where a movie has a 1 for each of its genres.
_FACTS = ("item", "title", "release_date", "video_release_date", "imdb_url", "unknown")
_GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller"),
    *("War", "Western"),
)
_NO_GENRES = "(no genres listed)"
_RATINGS = ("user", "item", "rating", "time")
_FILES = {
    "ml-100k": {
        "u.data": TextFormat(_RATINGS, separator="\t"),
        "u.item": TextFormat((*_FACTS, *_GENRES), "|", encoding="latin-1", quotes=False),
    },
    "ml-1m": {
        "ratings.dat": TextFormat(_RATINGS, separator="::"),
        "movies.dat": TextFormat(("item", "title", "genres"), "::", encoding="latin-1"),
    },
    "ml-20m": {"ratings.csv": TextFormat(), "movies.csv": TextFormat()},
}


class MovieLens(DatasetFamily):
    """Movie ratings of MovieLens as implicit feedback: every rating is an interaction."""

    name = "movielens"
    datasets: ClassVar[Totals] = {
        "ml-100k": {"users": 943, "items": 1_682, "interactions": 100_000},
        "ml-1m": {"users": 6_040, "items": 3_706, "interactions": 1_000_209},
        "ml-20m": {"users": 138_493, "items": 26_744, "interactions": 20_000_263},
    }
    citation = (
        'F. M. Harper, J. A. Konstan, "The MovieLens datasets: history and context", ACM '
        "Transactions on Interactive Intelligent Systems 5(4), 2015"
    )

    def files(self, dataset: str) -> Mapping[str, RawFile]:
        """Ratings and movies, both in one zip archive."""
        return {
            part: RawFile(file, f"{dataset}.zip", _ADDRESSES, text_format)
            for part, (file, text_format) in zip(
                ("ratings", "movies"), _FILES[dataset].items(), strict=True
            )
        }

    def _table(self, dataset: str, part: str, paths: Mapping[str, Path]) -> TableFile:
        table = super()._table(dataset, part, paths)
        named = table.text_format
        if named.encoding != UTF8 and is_utf8(table.path):  # copies are, now and then
            return TableFile(table.path, dataclasses.replace(named, encoding=UTF8))
        return table

    def read_items(
        self,
        dataset: str,
        paths: Mapping[str, Path],
        wanted: set[str],
        progress: bool = True,
        counts: RowCounts | None = None,
    ) -> pd.DataFrame:
        """Titles and genres."""
        movies = self._table(dataset, "movies", paths)
        if dataset == "ml-100k":
            frame = movies.read(("item", "title", *_GENRES).__contains__).frame
            flags = (frame[list(_GENRES)] == "1").to_numpy()
            genres = [list(itertools.compress(_GENRES, row)) for row in flags]
            return pd.DataFrame(
                {"item_id": frame["item"], "title": frame["title"], "categories": genres}
            )
        items = read_item_table(movies, wanted, self.layout, progress, counts)
        items["categories"] = items["categories"].map(
            lambda genres: [genre for genre in genres if genre != _NO_GENRES]
        )
        return items
