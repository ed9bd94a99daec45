"""What the three editions of Amazon's reviews have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from recbole_hellm.data.preparation.datasets.base import DatasetFamily, RawFile

_CATEGORIES = (
    "All_Beauty Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl Cell_Phones_and_Accessories "
    "Clothing_Shoes_and_Jewelry Electronics Gift_Cards Grocery_and_Gourmet_Food Home_and_Kitchen "
    "Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV "
    "Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies Software "
    "Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games"
)
CATEGORIES_SINCE_2018 = tuple(_CATEGORIES.split())


class AmazonFamily(DatasetFamily):
    """5-core categories of one edition: a file of reviews and one of metadata for each.

    Attributes
    ----------
    reviews_file, meta_file : str
        Names of the unpacked files, with ``{category}`` for the upstream name of the category.
    reviews_addresses, meta_addresses : tuple of str
        Addresses of the gzipped files, with ``{file}`` for the file's name.
    """

    reviews_file: ClassVar[str]
    meta_file: ClassVar[str]
    reviews_addresses: ClassVar[tuple[str, ...]]
    meta_addresses: ClassVar[tuple[str, ...]]

    def category(self, dataset: str) -> str:
        """The upstream name of a dataset's category."""
        return dataset.rpartition("-")[0]

    def files(self, dataset: str) -> Mapping[str, RawFile]:
        """The reviews and the metadata of a category."""
        category = self.category(dataset)
        reviews = self.reviews_file.format(category=category)
        meta = self.meta_file.format(category=category)
        return {
            "reviews": RawFile(reviews, f"{reviews}.gz", self.reviews_addresses),
            "meta": RawFile(meta, f"{meta}.gz", self.meta_addresses),
        }

    def folders(self, dataset: str) -> tuple[str, ...]:
        """Subfolders named like the dataset or the category, or the folder itself."""
        return (dataset, "", self.category(dataset))

    def notes(self, dataset: str) -> dict[str, Any]:
        """The upstream name of the category."""
        return {"category": self.category(dataset)}
