from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest

from recbole_hellm.reporting.sheets import (
    Cell,
    Sheet,
    as_html,
    as_latex,
    as_markdown,
    as_text,
    html_page,
)

SHEET = Sheet(
    "sheet",
    "Title & more",
    ["", "R@10", "a_b"],
    [["one", Cell(".1000 ± .0010†", best=True), "5%"], ["two|x", Cell(".0900", second=True), "<1"]],
    ["First note.", "Second note."],
)


def test_text_marks_the_best_and_the_second() -> None:
    lines = as_text(SHEET).splitlines()
    assert lines[0] == "Title & more"
    assert lines[4].split() == ["one", ".1000", "±", ".0010†*", "5%"]
    assert lines[5].split() == ["two|x", ".0900+", "<1"]
    assert lines[-2:] == ["First note.", "Second note."]


def test_nothing_that_a_terminal_obeys_reaches_it() -> None:
    text = as_text(dataclasses.replace(SHEET, title="\x1b[31mTitle\x1b]0;x\x07\x9b2J"))
    assert text.splitlines()[0] == "Title 2J"
    assert "\x1b" not in text


def test_markdown() -> None:
    assert as_markdown(SHEET).splitlines() == [
        "### Title & more",
        "",
        "| | R@10 | a_b |",
        "| --- | --- | --- |",
        "| one | **.1000 ± .0010†** | 5% |",
        r"| two\|x | <u>.0900</u> | <1 |",
        "",
        "First note. Second note.",
    ]


def test_latex_is_a_booktabs_table() -> None:
    text = as_latex(SHEET)
    assert r"\caption{Title \& more. First note. Second note.}" in text
    assert r"\begin{tabular}{lrr}" in text
    assert r"one & \textbf{.1000 $\pm$ .0010$^{\dagger}$} & 5\% \\" in text
    assert r"two$|$x & \underline{.0900} & $<$1 \\" in text
    assert r"\label{tab:sheet}" in text
    assert r"\label{tab:file-sheet}" in as_latex(SHEET, "file")
    assert r" & R@10 & a\_b \\" in text
    order = [text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert order == sorted(order)
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert text.isascii()


def test_html_is_well_formed_and_escaped() -> None:
    assert "Title &amp; more" in as_html(SHEET)
    assert "<td>&lt;1</td>" in as_html(SHEET)
    page = html_page("All", [SHEET, SHEET])
    body = page[page.index("<h1>") : page.index("</html>")]
    tree = ET.fromstring(f"<body>{body}</body>")  # noqa: S314 (our own text)
    assert len(tree.findall("table")) == 2
    assert [cell.text for cell in tree.findall(".//b")] == [".1000 ± .0010†"] * 2
    assert re.findall(r'(?:src|href)="', page) == []


@pytest.mark.parametrize("write", [as_text, as_markdown, as_latex, as_html])
def test_a_sheet_without_notes_ends_with_its_table(write: object) -> None:
    plain = Sheet("s", "T", ["a"], [["1"]])
    text = write(plain)  # type: ignore[operator]
    assert not text.endswith("\n")
    assert "1" in text.splitlines()[-1] or text.endswith(("</table>", r"\end{table}"))
