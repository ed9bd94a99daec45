"""Texts that are safe to print: no escape sequence of a file reaches a terminal."""

from __future__ import annotations

import re

# What a terminal obeys; the letters in it are no part of the text. Sequences that do not end, and
# those that begin with a character above \x7f, lose just that: it may be a letter of cp1252.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
# Control characters, line and paragraph separators, and what UTF-8 cannot hold.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# They turn the direction of what is printed after them.
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")


def plain_text(text: str) -> str:
    """A text on one line, safe for a terminal and for a cell of an atomic file.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        Without escape sequences and marks that override the direction of writing. Any other
        control character, line ends and tabs included, is a blank. A text without such characters
        comes back as it is.

    Examples
    --------
    >>> plain_text("\\x1b[31mRed\\x1b[0m\\tapple\\n")
    'Red apple '
    """
    if text.isprintable():
        return text
    return _CONTROL.sub(" ", _DIRECTION.sub("", _SEQUENCE.sub("", text)))
