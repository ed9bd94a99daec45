from __future__ import annotations

from recbole_hellm.data.preparation.datasets.amazon2018 import Amazon2018


def test_names_and_layout() -> None:
    family = Amazon2018()
    assert len(family.datasets) == 29
    assert set(family.datasets) >= {"Video_Games-2018", "Toys_and_Games-2018", "Luxury_Beauty-2018"}
    assert list(family.datasets) == sorted(family.datasets)
    assert family.category("Luxury_Beauty-2018") == "Luxury_Beauty"
    assert family.layout.name == family.name == "amazon2018"
    assert family.summary() == "CATEGORY-2018 such as Video_Games-2018"
