"""Which columns of a table hold users, items, times and texts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from recbole_hellm.data.preparation.atomic import IMAGE, TEXT_COLUMNS
from recbole_hellm.data.preparation.table_files import TableFile
from recbole_hellm.errors import DataError

# Names by role, without case, blanks and punctuation; the first that a file has is taken.
ALIASES = {
    "user": "userid user reviewerid uid customerid customer visitorid memberid username",
    "item": "itemid item parentasin asin iid productid product articleid movieid bookid sku",
    "time": "timestamp time unixreviewtime unixtime ts datetime date eventtime createdat",
    "title": "title itemtitle producttitle itemname productname name",
    "brand": "brand manufacturer store maker",
    "categories": "categories category genres genre categorypath maincategory",
    "description": "description desc text overview summary",
    IMAGE: "image images imageurlhighres imageurl imurl imagepath picture",
}
_SEPARATOR_HINT = ", or say with --separator what separates its cells"
TEXT_ROLES = (*TEXT_COLUMNS, IMAGE)
TEXT_ALIASES = frozenset(alias for role in TEXT_ROLES for alias in ALIASES[role].split())
_NUMBER_OR_DATE = re.compile(
    r"[-+]?(\d+[.,]?\d*|\.\d+)([eE][-+]?\d+)?|\d{1,4}([-./])\d{1,2}\3\d{1,4}.*"
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the columns of a kind of files mean.

    Attributes
    ----------
    name : str
    user, item, time : str, optional
        Columns of users, items and times; None is found by its name, see :data:`ALIASES`.
    marks : frozenset of str
        A file is known to have this layout if it has these three columns and, where there are
        marks, one of them.
    tags_removed : bool
        Whether texts of items hold markup, which is cut out.
    first_row_counts : bool
        Whether an item may have several rows, of which the first counts; else that is an error.
    items_item : str, optional
        Column of items in a table of items; None is `item` if the table has it, else found.
    time_format : str, optional
        How times are written, in Python's directives such as ``%d.%m.%Y``; None for numbers and
        ISO 8601.
    entities_resolved : bool
        Whether texts of items hold HTML entities, which become characters, and scripts or style
        sheets, which are no texts.
    texts : mapping of str to str
        Columns of a table of items by role, such as ``title``; others are found by their names.
    """

    name: str
    user: str | None = None
    item: str | None = None
    time: str | None = None
    marks: frozenset[str] = frozenset()
    tags_removed: bool = False
    first_row_counts: bool = False
    items_item: str | None = None
    time_format: str | None = None
    entities_resolved: bool = False
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


TABLE = Layout("table")
"""Any table: columns are found by their names."""


def recognise(columns: Iterable[str], layouts: Iterable[Layout]) -> Layout:
    """The layout of interactions with these columns: the most specific one, or `TABLE`."""
    names = frozenset(columns)
    fitting = [
        layout
        for layout in layouts
        if {layout.user, layout.item, layout.time} <= names
        and (not layout.marks or layout.marks & names)
    ]
    return max(fitting, key=lambda layout: len(layout.marks), default=TABLE)


def role_column(
    file: TableFile,
    role: str,
    column: str | None = None,
    columns_option: str = "columns",
    column_option: str | None = None,
) -> str:
    """The column of a file that holds users, items or times.

    Parameters
    ----------
    file : TableFile
    role : str
        ``user``, ``item`` or ``time``.
    column : str, optional
        Its name, where it is known.
    columns_option : str
        The option that names the columns of a file without a header, for messages.
    column_option : str, optional
        The option that names this column, for messages; by default ``<role>_column``.

    Raises
    ------
    DataError
        If there is no such column, or line 1 holds data instead of names.
    """
    names, option = file.columns, column_option or f"{role}_column"
    chosen = first_named(names, role) if column is None else column
    has = f"it has {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
    if _header_is_data(file, chosen):
        raise DataError(
            f"{file.path}, line 1 looks like data, not like names of columns ({has}); add a line "
            f"with names, or name all columns, for example --{columns_option}="
            f"'{_example(columns_option, len(names))}'."
        )
    if chosen is None:
        hint = ""
        if file.kind == "text":
            hint = f", or all columns with --{columns_option} if line 1 is data"
            hint += _SEPARATOR_HINT * (len(names) == 1)
        raise DataError(
            f"{file.path} has no column known to hold {role}s ({has}); name it with "
            f"--{option}{hint}."
        )
    if chosen not in names:
        raise DataError(
            f"{file.path} has no column '{chosen}' ({has}); name the column of {role}s with "
            f"--{option}."
        )
    return chosen


def first_named(names: Iterable[str], role: str) -> str | None:
    """The best column known for a role, or None."""
    return next(iter(all_named(names, role)), None)


def all_named(names: Iterable[str], role: str) -> list[str]:
    """Columns known for a role, the best first."""
    by_alias: dict[str, str] = {}
    for name in names:
        by_alias.setdefault(plain_name(name), name)
    return [by_alias[alias] for alias in ALIASES[role].split() if alias in by_alias]


def known_names(names: Sequence[str]) -> list[str]:
    """Those of the names that are known for any role."""
    return [name for role in ALIASES for name in all_named(names, role)]


def plain_name(name: str) -> str:
    """`name` as in :data:`ALIASES`."""
    return "".join(character for character in name.lower() if character.isalnum())


def _example(columns_option: str, count: int) -> str:
    if columns_option == "item_columns":
        return "[item, title, genres]" if count > 2 else "[item, title]"
    return "[user, item, rating, time]" if count > 3 else "[user, item, time]"


def has_numbered_header(file: TableFile) -> bool:
    """Whether line 1 is 0, 1, 2, ..., which pandas writes for columns without names."""
    named = file.kind == "text" and file.text_format.columns is None
    return named and list(file.columns) == [str(number) for number in range(len(file.columns))]


def _header_is_data(file: TableFile, chosen: str | None) -> bool:
    """Whether line 1 is a row: `chosen` is a number or date, or no name is known and some are."""
    if file.kind != "text" or file.text_format.columns is not None:
        return False
    names: Sequence[str] = file.columns
    values = [name for name in names if _NUMBER_OR_DATE.fullmatch(name)]
    known = bool(known_names(names))
    if chosen in names:
        return not has_numbered_header(file) and (chosen in values or bool(values and not known))
    return bool(values) and (not known or 2 * len(values) >= len(names))
