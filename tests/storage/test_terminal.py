from __future__ import annotations

import pytest

from recbole_hellm.storage.terminal import plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[31mRed\x1b[0m", "Red"),
        ("\x9b2JGone", " 2JGone"),
        ("\x1b]0;title\x07Own", "Own"),
        ("\x1b]8;;http://a.example\x1b\\Link\x1b]8;;\x1b\\", "Link"),
        ("\x1b]52;c;Own", " ]52;c;Own"),
        ("ba\x9eina", "ba ina"),
        ("\x1bcReset", "Reset"),
        ("End\x1b", "End "),
        ("a\tb\nc\x00d\x7fe\x85f", "a b c d e f"),
        ("one\u2028two", "one two"),
        ("safe\u202egnp.exe", "safegnp.exe"),
        ("half \ud800", "half  "),
    ],
)
def test_a_terminal_shows_only_the_text(text: str, plain: str) -> None:
    assert plain_text(text) == plain
    assert plain_text(text) != text


@pytest.mark.parametrize("text", ["", "Café", "日本語", "👩\u200d🔬", "a\xa0b", "עברית\u200f"])
def test_other_texts_stay(text: str) -> None:
    assert plain_text(text) == text
    assert plain_text(text) == text
