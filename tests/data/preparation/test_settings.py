from __future__ import annotations

from typing import Any

import pytest

from recbole_hellm.data.preparation.delimited_text import TextFormat
from recbole_hellm.data.preparation.settings import PrepareSettings
from recbole_hellm.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": "x"}, "items needs --interactions=FILE"),
        ({"layout": "table", "time_column": "t"}, "time_column, layout needs --interactions"),
        ({"columns": ["a"], "encoding": "x"}, "columns, encoding needs --interactions"),
        ({"interactions": "x", "raw_dir": "y"}, "raw_dir is for datasets by name"),
        ({"interactions": "x", "family": "y"}, "family is for datasets by name"),
        ({"interactions": "x", "item_separator": ","}, "item_separator needs --items=FILE"),
        ({"interactions": "x", "separator": ""}, "The separator '' cannot divide cells"),
        ({"interactions": "x", "separator": "\\x"}, "is not a character; write a tab as"),
        ({"interactions": "x", "encoding": "no"}, "There is no encoding 'no'"),
        ({"interactions": "x", "columns": ["a", "a"]}, "The columns include 'a' twice"),
        ({"k_core": -1}, "k_core=-1 must not be negative"),
        ({"k_core": "five"}, "k_core='five' must be a whole number"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareSettings.from_config(options)


def test_formats_of_the_files() -> None:
    settings = PrepareSettings(interactions="x", items="y")
    assert settings.interactions_format == settings.items_format == TextFormat()
    settings = PrepareSettings(
        interactions="x",
        items="y",
        columns=("user", "item"),
        separator="\\t",
        item_columns="item, title",
        item_separator="::",
        encoding="latin-1",
    )
    assert settings.interactions_format == TextFormat(("user", "item"), "\t", "latin-1")
    assert settings.items_format == TextFormat(("item", "title"), "::", "latin-1")


@pytest.mark.parametrize(
    ("written", "separator"), [("\\t", "\t"), ("\t", "\t"), ("\\x01", "\x01"), ("é\\t", "é\\t")]
)
def test_escaped_separators(written: str, separator: str) -> None:
    settings = PrepareSettings(interactions="x", separator=written)
    assert settings.interactions_format.separator == separator


def test_the_table_of_items_may_have_an_encoding_of_its_own() -> None:
    settings = PrepareSettings(interactions="a", items="b", item_encoding="cp1252")
    assert settings.interactions_format.encoding == "utf-8"
    assert settings.items_format.encoding == "cp1252"
    with pytest.raises(ConfigError, match="item_encoding needs --items=FILE"):
        PrepareSettings(interactions="a", item_encoding="cp1252")
