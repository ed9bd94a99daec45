"""Cells of a table as plain values: ids, texts, categories and pictures."""

from __future__ import annotations

import ast
import codecs
import dataclasses
import html
import html.entities
import json
import numbers
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from recbole_hellm.data.preparation.atomic import is_missing
from recbole_hellm.data.preparation.object_files import UNPARSABLE
from recbole_hellm.data.preparation.table_files import Table
from recbole_hellm.errors import DataError
from recbole_hellm.storage.text_files import UTF8

_TAG = re.compile(r"<.*?>", re.DOTALL)
_ENTITY = re.compile(r"&(#\d+|#[xX][0-9a-fA-F]+|\w+);")
# What Amazon's pages of 2018 left in place of texts.
_SCRIPT = re.compile(
    r"<(script|style)\b|\bgetTime\(|\bfunction\s*\w*\s*\([^)]*\)\s*\{|\bvar\s+\w+\s*="
    r"|\b(window|document)\.\w+\s*[.=(\[]|[.#][\w-]+[^{}]*\{[^{}]*[\w-]+\s*:[^{}]*\}|@media\b",
    re.IGNORECASE,
)
_MOST_ESCAPES = 3
_PLACEHOLDERS = frozenset(("null", "none", "nan", "na", "n/a", "#n/a", "<na>", "nil", "\\n"))
_SCIENTIFIC = re.compile(r"\d+([.,]\d+)?[eE]\+\d+")
_POINT_ZERO = re.compile(r"(?<=\d)\.0+\Z")
_SIZES = ("hi_res", "large", "thumb", "url")  # of a picture in Amazon's 2023 files


@dataclasses.dataclass
class Cleaning:
    """How texts are cleaned, and what was found.

    Attributes
    ----------
    tags_removed : bool
        Whether markup is cut out.
    entities_resolved : bool
        Whether HTML entities become characters, and scripts and style sheets empty texts.
    scripts : int
        Scripts and style sheets so far.
    """

    tags_removed: bool = False
    entities_resolved: bool = False
    scripts: int = 0

    def __call__(self, words: str) -> str:
        """A clean text, with single blanks."""
        if self.entities_resolved and _SCRIPT.search(words):
            self.scripts += 1
            return ""
        if self.tags_removed:
            words = _TAG.sub("", words)
        if self.entities_resolved:
            for _ in range(_MOST_ESCAPES):  # ``&amp;amp;`` was escaped twice
                words = _ENTITY.sub(_resolved, words)
        return " ".join(words.split())


AS_WRITTEN = Cleaning()
"""Texts stay as they are."""


def ids(table: Table, column: str) -> list[str]:
    """Ids as texts; whole numbers are written without a point.

    Raises
    ------
    DataError
        If an id is empty, not printable, or neither a text nor a whole number.
    """
    tokens = []
    values = table.frame[column]
    exact = _exact_below(values.dtype)
    for row, value in enumerate(values.tolist()):
        token = ""
        if isinstance(value, str):
            token = value.strip()
        elif isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
            if isinstance(value, numbers.Integral):
                token = str(int(value))
            elif float(value).is_integer() and abs(float(value)) < exact:  # else it may be another
                token = str(int(value))  # type: ignore[call-overload]
        # Not printable are tabs and line ends, and what UTF-8 cannot hold.
        if not token or not token.isprintable():
            shown = "empty" if is_missing(value) else f"{value!a:.60}"
            if isinstance(value, float) and value.is_integer():
                shown = f"{value:.15g}, a float that may stand for several whole numbers"
            raise DataError(
                f"{table.where(row)}: the {column} is {shown}, and an id must be a non-empty, "
                "printable text or a whole number; correct or drop the row."
            )
        tokens.append(token)
    return tokens


def doubtful_ids(tokens: Iterable[str]) -> list[str]:
    """What ids that a table or a spreadsheet has changed look like, a clause for each kind."""
    known = dict.fromkeys(tokens)
    kinds = {
        "may stand for a missing one": [t for t in known if t.lower() in _PLACEHOLDERS],
        "may have been rounded by a spreadsheet, so that several became one": [
            t for t in known if _SCIENTIFIC.fullmatch(t)
        ],
        "differ from those without a point": [
            t for t in known if _POINT_ZERO.search(t) and _POINT_ZERO.sub("", t) in known
        ],
    }
    return [
        f"{len(found):,} of the ids (such as {', '.join(found[:3])}) {kind}"
        for kind, found in kinds.items()
        if found
    ]


def misread(texts: Iterable[str], encoding: str) -> str | None:
    """A text of which all others show, too, that they are UTF-8 read in another encoding."""
    example = None
    if codecs.lookup(encoding).name == UTF8:
        return None
    for written in dict.fromkeys(text for text in texts if not text.isascii()):
        try:
            written.encode(encoding).decode(UTF8)
        except UnicodeError:
            return None
        example = example or written
    return example


def text(value: Any, cleaning: Cleaning = AS_WRITTEN) -> str:
    """A text, or the words of a list of texts, with single blanks.

    Raises
    ------
    TypeError
        If it is neither.
    """
    value = _as_list(value)
    words = " ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
    return cleaning(words)


def category_path(value: Any, cleaning: Cleaning = AS_WRITTEN) -> list[str]:
    """A path of categories: a list, the first of a list of lists, or a text that spells a path.

    Raises
    ------
    TypeError
        If an element is not a text.
    """
    elements = (cleaning(element) for element in _path(_as_list(value)))
    return [element for element in elements if element]


def picture(value: Any, cleaning: Cleaning = AS_WRITTEN) -> str:
    """The address or path of one picture: the first, and its largest size, where there are more.

    Raises
    ------
    TypeError
        If it is not a text.
    """
    return cleaning(_first_picture(_as_list(value)))


def _resolved(entity: re.Match[str]) -> str:
    """The character of an entity; what only begins as one stays."""
    known = entity[1].startswith("#") or f"{entity[1]};" in html.entities.html5
    return html.unescape(entity[0]) if known else entity[0]


def _exact_below(kind: Any) -> int:
    """Up to where every whole number is one of a type of floats."""
    single = isinstance(kind, np.dtype) and kind.kind == "f"
    return int(2 ** (np.finfo(kind).nmant + 1)) if single else 2**53


def _plain(value: Any) -> str:
    if is_missing(value):
        return ""
    if isinstance(value, (str, numbers.Real)):
        return str(value).encode("utf-8", "replace").decode("utf-8")
    raise TypeError(f"a {type(value).__name__}, not a text")


def _path(value: Any) -> list[str]:
    if isinstance(value, str):
        spelled = value.strip()
        if spelled.startswith("["):
            try:
                value = _parsed_list(spelled)
            except UNPARSABLE:
                return [spelled]
        else:
            mark = next((mark for mark in ("|", ">", ";") if mark in spelled), None)
            return spelled.split(mark) if mark else [spelled]
    if isinstance(value, list):
        first = value[0] if value else None
        return list(map(_plain, _as_list(first) if _is_list(first) else value))
    return [_plain(value)]


def _first_picture(value: Any) -> str:
    if isinstance(value, list):
        addresses = (_first_picture(_as_list(element)) for element in value)
        return next((address for address in addresses if address), "")
    if isinstance(value, dict):
        addresses = (_first_picture(_as_list(value[size])) for size in _SIZES if size in value)
        return next((address for address in addresses if address), "")
    return _plain(value)


def _parsed_list(spelled: str) -> Any:
    try:
        return json.loads(spelled)
    except ValueError:
        return ast.literal_eval(spelled)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _as_list(value: Any) -> Any:
    """Parquet's arrays as lists."""
    return list(value) if _is_list(value) else value
