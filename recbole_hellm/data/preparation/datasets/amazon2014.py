"""Amazon's 5-core categories of 2014.

Reviews are a JSON object a line, metadata a Python literal a line.
"""

from __future__ import annotations

from typing import ClassVar

from recbole_hellm.data.preparation.column_roles import Layout
from recbole_hellm.data.preparation.datasets.amazon import AmazonFamily
from recbole_hellm.data.preparation.datasets.base import Totals

_UPSTREAM = {"Toys": "Toys_and_Games", "Sports": "Sports_and_Outdoors"}
_INTERACTIONS = {
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
}
# The addresses that the authors (http://jmcauley.ucsd.edu/data/amazon/index_2014.html) and public
# repositories name; none of them has been tried yet. The authors publish no checksums.
_ADDRESSES = (
    "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/{file}",
    "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/{file}",
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/categoryFiles/{file}",
)


class Amazon2014(AmazonFamily):
    """Amazon's 5-core categories of 2014, with the totals that their authors give."""

    name = "amazon2014"
    datasets: ClassVar[Totals] = {
        "Beauty": {"users": 22_363, "items": 12_101, "interactions": 198_502},
        "Toys": {"users": 19_412, "items": 11_924, "interactions": 167_597},
        "Sports": {"users": 35_598, "items": 18_357, "interactions": 296_337},
        **{category: {"interactions": total} for category, total in _INTERACTIONS.items()},
    }
    layout = Layout(
        name,
        user="reviewerID",
        item="asin",
        time="unixReviewTime",
        tags_removed=True,
        first_row_counts=True,
    )
    citation = (
        'J. McAuley, C. Targett, J. Shi, A. van den Hengel, "Image-based recommendations on styles '
        'and substitutes", SIGIR 2015'
    )
    own_folder = False
    reviews_file = "reviews_{category}_5.json"
    meta_file = "meta_{category}.json"
    reviews_addresses = meta_addresses = _ADDRESSES

    def category(self, dataset: str) -> str:
        """The upstream name of a dataset's category."""
        return _UPSTREAM.get(dataset, dataset)
