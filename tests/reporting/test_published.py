from __future__ import annotations

import dataclasses
from collections.abc import Callable

from support.sheets import TABLE, row

from recbole_hellm.benchmark.methods import Method, methods
from recbole_hellm.benchmark.records import Record
from recbole_hellm.reporting import published
from recbole_hellm.reporting.numbers import spread

Make = Callable[..., Record]


def test_the_papers_figures_stand_beside_ours(three: list[Method]) -> None:
    sheet = published.beside_the_paper(TABLE, three)
    assert sheet is not None
    texts = [cell.text for cell in row(sheet, "LightGCN")]
    # Under the masking of the paper's general rows every rank is one lower, and 5 is still found.
    assert texts[:6] == ["LightGCN", "train", "1", ".1000", ".0426", "+.0574"]
    assert [cell.text for cell in row(sheet, "SASRec")][:6] == [
        *("SASRec", "none", "1", ".6833", "–", "–"),
    ]


def test_no_table_beside_a_paper_that_has_no_figures(make_kept: Make, good: list[int]) -> None:
    found = methods({"Pop": [make_kept("Pop", good)]})
    assert published.beside_the_paper(TABLE, found) is None


def test_what_others_published_stands_beside_the_reference(three: list[Method]) -> None:
    sheet = published.beside_others(dataclasses.replace(TABLE, others=True), three)
    assert sheet is not None
    assert [cell.text for cell in row(sheet, "WEARec, its row")] == [
        *("WEARec, its row", "seen", "best of 72 on test", ".1041", ".0614", ".1391", ".0703"),
    ]
    tiger = [cell.text for cell in row(sheet, "TIGER")]
    assert tiger == ["TIGER", "not told", "not told", ".0648", ".0384", "–", "–"]
    ours = [[c.text for c in cells] for cells in sheet.cells() if cells[0].text == "HeLLM, here"]
    assert [cells[1:3] for cells in ours] == [["seen", "by validation"], ["none", "by validation"]]
    for cells in ours:
        assert cells[3] == spread(three[2].values("recall@10", cells[1]))
    assert sheet.data is not None
    assert {"WEARec, its row", "HeLLM"} < set(sheet.data["method"])


def test_others_are_shown_where_a_table_asks_and_they_have_the_dataset(
    make_kept: Make, good: list[int], three: list[Method]
) -> None:
    assert published.beside_others(TABLE, three) is None
    asking = dataclasses.replace(TABLE, others=True)
    assert [sheet.name for sheet in published.sheets(asking, three)] == ["paper", "published"]
    elsewhere = methods({"HeLLM": [make_kept("HeLLM", good, dataset="another")]})
    assert published.sheets(asking, elsewhere) == []
