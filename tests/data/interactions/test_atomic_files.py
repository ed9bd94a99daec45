from __future__ import annotations

import logging
from pathlib import Path

import pytest

from recbole_hellm.data.interactions.atomic_files import (
    AtomicFile,
    AtomicSettings,
    atomic_settings,
    read_items,
    read_tokens,
)
from recbole_hellm.errors import ConfigError, DataError

ITEMS = "item_id:token\ttitle:token_seq\tcategories:token_seq\tprice:float\n"


def test_quotes_are_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.item"
    path.write_text(f'{ITEMS}"1"\t"Open lamp\tA_b C\t2\n2\tShut" "x"\t\t\n')
    frame = AtomicFile(path).read()
    assert frame["item_id"].tolist() == ['"1"', "2"]
    assert frame["title"].tolist() == ['"Open lamp', 'Shut" "x"']
    assert frame["price"].tolist() == ["2", ""]
    assert read_tokens(path, "item_id") == ['"1"', "2"]
    assert read_items(tmp_path, "a")["categories"].tolist() == [["A b", "C"], []]


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ((ITEMS + "é\tÀ b\tc\t1\n").encode("utf-8-sig"), {}),
        ((ITEMS + "é\tÀ b\tc\t1\r\n").encode("utf-16"), {}),
        ((ITEMS + "é\tÀ b\tc\t1\n").encode("cp1252"), {"encoding": "cp1252"}),
        ((ITEMS + "é\tÀ b\tc\t1\n").replace("\t", ",").encode(), {"field_separator": ","}),
        ((ITEMS + "é\tÀ b\tc\t1\n").replace("\t", "::").encode(), {"field_separator": "::"}),
        ((ITEMS + "é\tÀ|b\tc\t1\n").encode(), {"seq_separator": "|"}),
        (
            (ITEMS + "é\tÀ b\tc\t1\n").replace("item_id", "movie").encode(),
            {"ITEM_ID_FIELD": "movie", "field_separator": "\\t"},
        ),
    ],
)
def test_recboles_settings_are_known(tmp_path: Path, content: bytes, settings: dict) -> None:
    (tmp_path / "a.item").write_bytes(content)
    chosen = AtomicSettings(**settings)
    frame = read_items(tmp_path, "a", chosen)
    assert frame.to_dict("list") == {"item_id": ["é"], "title": ["À b"], "categories": [["c"]]}
    assert read_tokens(tmp_path / "a.item", chosen.ITEM_ID_FIELD, chosen) == ["é"]
    config = dict.fromkeys(AtomicSettings.model_fields) | settings
    assert atomic_settings(config) == chosen


def test_other_encodings_and_separators_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.item"
    path.write_bytes((ITEMS + "1\té\t\t\n").encode("cp1252"))
    with pytest.raises(DataError, match=r"a.item is not encoded in utf-8 .*--encoding=cp1252"):
        read_items(tmp_path, "a")
    path.write_text(ITEMS.replace("\t", ","))
    with pytest.raises(DataError, match="""say --field_separator='","'"""):
        read_items(tmp_path, "a")
    assert len(read_items(tmp_path, "a", AtomicSettings(field_separator='","'))) == 0
    with pytest.raises(ConfigError, match="There is no encoding 'x'"):
        read_items(tmp_path, "a", AtomicSettings(encoding="x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id:token\n1\n\n2\t3\n", r"a.item, line 4 has 2 cells, and there are 1 columns"),
        ("item_id:token\titem_id:float\n", "line 1: the column 'item_id' is named twice"),
        ("item_id:token\tx\n", "line 1: column 'x' must be written as name:type"),
        ("item_id:token\n\0\n", "line 2 has a null character"),
        ("title:token\n", "line 1: the header must name 'item_id:token'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.item").write_text(content)
    with pytest.raises(DataError, match=message):
        read_items(tmp_path, "a")
    with pytest.raises(DataError, match=r"b\.item does not exist"):
        read_items(tmp_path, "b")


def test_short_rows_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.item").write_text(ITEMS + "1\n\n2\tx\ty\t1\n3\tz\n")
    with caplog.at_level(logging.WARNING):
        frame = read_items(tmp_path, "a")
    assert frame["title"].tolist() == ["", "x", "z"]
    assert "rows with fewer cells than there are columns: 2 (the first in line 2)" in caplog.text
    assert AtomicFile(tmp_path / "a.item").where(2).endswith("a.item, line 5")


def test_an_empty_separator_is_refused() -> None:
    with pytest.raises(ConfigError, match="separator is empty; put quotes inside"):
        AtomicSettings(field_separator="")
