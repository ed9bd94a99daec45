"""Amazon's 5-core categories of 2018: reviews and metadata are a JSON object a line."""

from __future__ import annotations

from typing import ClassVar

from recbole_hellm.data.preparation.column_roles import Layout
from recbole_hellm.data.preparation.datasets.amazon import CATEGORIES_SINCE_2018, AmazonFamily
from recbole_hellm.data.preparation.datasets.base import Totals

_ONLY_2018 = ("AMAZON_FASHION", "Appliances", "Digital_Music", "Luxury_Beauty", "Prime_Pantry")
# The addresses that the authors (https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2) and public
# repositories name; none of them has been tried yet. The authors publish no checksums.
_FOLDERS = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2",
    "https://jmcauley.ucsd.edu/data/amazon_v2",
)


class Amazon2018(AmazonFamily):
    """Amazon's 5-core categories of 2018, named ``CATEGORY-2018``."""

    name = "amazon2018"
    datasets: ClassVar[Totals] = {
        f"{category}-2018": {} for category in sorted((*CATEGORIES_SINCE_2018, *_ONLY_2018))
    }
    layout = Layout(
        name,
        user="reviewerID",
        item="asin",
        time="unixReviewTime",
        marks=frozenset(["verified", "vote", "style", "image"]),
        tags_removed=True,
        first_row_counts=True,
        entities_resolved=True,
    )
    citation = (
        'J. Ni, J. Li, J. McAuley, "Justifying recommendations using distantly-labeled reviews and '
        'fine-grained aspects", EMNLP 2019'
    )
    reviews_file = "{category}_5.json"
    meta_file = "meta_{category}.json"
    reviews_addresses = tuple(f"{folder}/categoryFilesSmall/{{file}}" for folder in _FOLDERS)
    meta_addresses = tuple(f"{folder}/metaFiles2/{{file}}" for folder in _FOLDERS)

    def summary(self) -> str:
        """The pattern of the names."""
        return "CATEGORY-2018 such as Video_Games-2018"
