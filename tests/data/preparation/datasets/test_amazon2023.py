from __future__ import annotations

from recbole_hellm.data.preparation.datasets.amazon2023 import Amazon2023


def test_names_and_layout() -> None:
    family = Amazon2023()
    assert len(family.datasets) == 27
    assert set(family.datasets) >= {"Video_Games-2023", "Toys_and_Games-2023", "Baby_Products-2023"}
    assert list(family.datasets) == sorted(family.datasets)
    assert family.category("Baby_Products-2023") == "Baby_Products"
    assert family.layout.name == family.name == "amazon2023"
    assert family.summary() == "CATEGORY-2023 such as Video_Games-2023"
