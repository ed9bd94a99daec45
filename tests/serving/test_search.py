from __future__ import annotations

from recbole_hellm.serving.search import SearchIndex, folded

TITLES = {
    "a": "Steel Kettle",
    "b": "Kettle Steel Large",
    "c": "Teakettle",
    "d": "Café table",
    "kettle": "Lamp",
    "e": "",
}


def test_folded() -> None:
    assert folded("Café ÉCLAIR straße") == "cafe eclair strasse"


def test_better_ones_come_first() -> None:
    index = SearchIndex(list(TITLES), TITLES)
    # Its token, then titles that begin with it, words that do, and words that hold it.
    assert index.find("Kettle", 9) == ["kettle", "b", "a", "c"]
    assert index.find("kettle", 2) == ["kettle", "b"]


def test_every_word_must_be_there_in_any_order() -> None:
    index = SearchIndex(list(TITLES), TITLES)
    assert index.find(" large   kettle ", 9) == ["b"]
    assert index.find("cafe", 9) == index.find("CAFÉ", 9) == ["d"]
    assert index.find("kettle nix", 9) == []


def test_without_words_all_are_found_up_to_the_limit() -> None:
    index = SearchIndex(list(TITLES), TITLES)
    assert index.find("  ", 3) == ["a", "b", "c"]
    assert SearchIndex(["u2", "u1", "x"]).find("U", 9) == ["u2", "u1"]
