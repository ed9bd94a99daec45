"""Amazon's 5-core categories of 2023: reviews are CSV, metadata a JSON object a line."""

from __future__ import annotations

from typing import ClassVar

from recbole_hellm.data.preparation.column_roles import Layout
from recbole_hellm.data.preparation.datasets.amazon import CATEGORIES_SINCE_2018, AmazonFamily
from recbole_hellm.data.preparation.datasets.base import Totals

_ONLY_2023 = ("Baby_Products", "Beauty_and_Personal_Care", "Health_and_Household")
# The addresses that the authors (https://amazon-reviews-2023.github.io/data_processing/5core.html)
# and public repositories name; none of them has been tried yet. The authors publish no checksums.
_FOLDERS = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_2023",
)


class Amazon2023(AmazonFamily):
    """Amazon's 5-core categories of 2023, named ``CATEGORY-2023``."""

    name = "amazon2023"
    datasets: ClassVar[Totals] = {
        f"{category}-2023": {} for category in sorted((*CATEGORIES_SINCE_2018, *_ONLY_2023))
    }
    layout = Layout(
        name,
        user="user_id",
        item="parent_asin",
        time="timestamp",
        tags_removed=True,
        first_row_counts=True,
    )
    citation = (
        'Y. Hou and others, "Bridging language and items for retrieval and recommendation", 2024'
    )
    reviews_file = "{category}.csv"
    meta_file = "meta_{category}.jsonl"
    reviews_addresses = tuple(
        f"{folder}/benchmark/5core/rating_only/{{file}}" for folder in _FOLDERS
    )
    meta_addresses = tuple(f"{folder}/raw/meta_categories/{{file}}" for folder in _FOLDERS)

    def summary(self) -> str:
        """The pattern of the names."""
        return "CATEGORY-2023 such as Video_Games-2023"
