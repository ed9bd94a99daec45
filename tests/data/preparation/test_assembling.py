from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from recbole_hellm.data.interactions.atomic_files import read_items
from recbole_hellm.data.preparation.assembling import Reading, assemble
from recbole_hellm.data.preparation.row_counts import RowCounts
from recbole_hellm.errors import DataError

ROWS = [
    ("u1", "a", 1),
    ("u1", "b", 2),
    ("u1", "a", 1),
    ("u2", "a", 3),
    ("u2", "b", 4),
    ("u3", "c", 5),
]
INTERACTIONS = pd.DataFrame(ROWS, columns=["user_id", "item_id", "timestamp"])


def test_items_are_asked_for_after_the_k_core(tmp_path: Path) -> None:
    asked: list[set[str]] = []

    def texts(wanted: set[str]) -> pd.DataFrame:
        asked.append(wanted)
        rows = [("a", "Tea", ["x"]), ("b", None, []), ("c", "unwanted", ["y"])]
        return pd.DataFrame(rows, columns=["item_id", "title", "categories"])

    manifest = assemble("shop", tmp_path, INTERACTIONS, texts, [], {"by": "hand"}, k_core=2)
    assert asked == [{"a", "b"}]
    assert read_items(tmp_path, "shop")["title"].tolist() == ["Tea", ""]
    assert manifest["notes"] == {
        "by": "hand",
        "duplicates_dropped": 1,
        "k_core": 2,
        "interactions_before_k_core": 5,
        "items_without_metadata": 0,
        "items_without_title": 1,
        "items_without_brand": 2,
        "items_without_categories": 1,
        "items_without_description": 2,
    }


def test_no_texts(tmp_path: Path) -> None:
    for read_texts in (None, lambda _: None):
        manifest = assemble("shop", tmp_path, INTERACTIONS, read_texts, [], {})
        assert manifest["notes"] == {"duplicates_dropped": 1}
        assert not (tmp_path / "shop.item").exists()


def test_members_of_an_archive_have_one_source(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.writestr("a", "")
        archive.writestr("b", "")
    (tmp_path / "c").write_text("")
    sources = [tmp_path / "raw.zip/a", tmp_path / "raw.zip/b", tmp_path / "c"]
    manifest = assemble("shop", tmp_path / "shop", INTERACTIONS, None, sources, {})
    assert [source["file"] for source in manifest["sources"]] == ["raw.zip", "c"]


def test_numbers_are_tokens(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 7], "timestamp": [3, 2, 1]})
    items = pd.DataFrame({"item_id": [7, 9], "title": ["Tea", "unwanted"]})
    manifest = assemble("shop", tmp_path, frame, lambda _: items, [], {})
    assert manifest["notes"]["items_without_metadata"] == 1
    assert (tmp_path / "shop.inter").read_text().splitlines()[1] == "1\t8\t0\t2"
    assert read_items(tmp_path, "shop")["title"].tolist() == ["Tea", ""]


def test_absent_columns_are_told(tmp_path: Path) -> None:
    frame = INTERACTIONS.rename(columns={"timestamp": "time"})
    with pytest.raises(DataError, match="The interactions of 'shop' have no column timestamp"):
        assemble("shop", tmp_path, frame, None, [], {})
    items = pd.DataFrame({"title": ["Tea"]})
    with pytest.raises(DataError, match="The items of 'shop' have no column item_id"):
        assemble("shop", tmp_path, INTERACTIONS, lambda _: items, [], {})


def test_more_than_a_tenth_must_be_allowed(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": ["a", "x", "y"], "title": ["Tea", "One", "Two"]})
    reading = Reading(allow_unmatched=False, other_ids=lambda wanted: ["never"])
    with pytest.raises(DataError, match=r"2 of the 3 items .*as b, c\).*as x, y .*--allow_unmatch"):
        assemble("shop", tmp_path, INTERACTIONS, lambda _: items, [], {}, None, reading)
    with pytest.raises(DataError, match=r"where ids such as never have no interactions"):
        assemble("shop", tmp_path, INTERACTIONS, lambda _: items[:1], [], {}, None, reading)
    counts = RowCounts(read=8, dropped={"without item": 1, "blank": 5})
    reading = Reading(counts, allow_dropped=False)
    with pytest.raises(DataError, match=r"1 of the 8 rows of interactions .*\(1 without item\)"):
        assemble("shop", tmp_path, INTERACTIONS, None, [], {}, None, reading)
    assert list(tmp_path.iterdir()) == []
    reading = Reading(RowCounts(read=20, dropped={"without item": 1}), allow_dropped=False)
    manifest = assemble("shop", tmp_path, INTERACTIONS, None, [], {}, 2, reading)
    assert manifest["tables"][0]["dropped"] == {
        "without item": 1,
        "duplicates": 1,
        "outside the 2-core": 1,
    }
