"""Options of the command ``prepare``."""

from __future__ import annotations

import dataclasses

from recbole_hellm.config.settings import Settings, names, require
from recbole_hellm.data.preparation.delimited_text import TextFormat
from recbole_hellm.errors import ConfigError

AUTO = "auto"
_FOR_FILES = ("columns", "separator", "encoding", "user_column", "item_column", "time_column")
_FOR_ITEMS = ("item_columns", "item_separator")
_BY_NAME = ("family", "raw_dir", "mirrors")


@dataclasses.dataclass(frozen=True)
class PrepareSettings(Settings):
    """Options of ``prepare``.

    Attributes
    ----------
    family : str, optional
        The family of a dataset by name: a name, or an import path ``package.module:Class``.
    raw_dir : str, optional
        Folder that holds the raw files of a dataset by name; missing ones are downloaded to it.
    mirrors : str or tuple of str, optional
        See :class:`recbole_hellm.data.downloads.mirrors.Mirrors`.
    k_core : int, optional
        Keep users and items with this many interactions.
    interactions, items : str, optional
        The user's own files.
    columns, item_columns : str or tuple of str, optional
        Names of all columns of `interactions` and `items`, for files without a header.
    separator, item_separator : str, optional
        What divides the cells of `interactions` and `items`; ``\\t`` is a tab.
    encoding : str, optional
        The encoding of both files; UTF-8 by default.
    layout : str
        What the columns of `interactions` mean; ``auto`` recognises it by their names.
    user_column, item_column, time_column : str, optional
        Columns of users, items and times, where their names are not known.
    """

    family: str | None = None
    raw_dir: str | None = None
    mirrors: str | tuple[str, ...] | None = None
    k_core: int | None = None
    interactions: str | None = None
    items: str | None = None
    columns: str | tuple[str, ...] | None = None
    item_columns: str | tuple[str, ...] | None = None
    separator: str | None = None
    item_separator: str | None = None
    encoding: str | None = None
    layout: str = AUTO
    user_column: str | None = None
    item_column: str | None = None
    time_column: str | None = None

    def validate(self) -> None:
        """Check that every option has an effect.

        Raises
        ------
        ConfigError
            If one has none, a file cannot be written as described, or `k_core` is negative.
        """
        require(self.k_core is None or self.k_core >= 0, f"k_core={self.k_core} is negative.")
        if self.interactions is None:
            useless = self._set("items", *_FOR_ITEMS, *_FOR_FILES)
            useless += ["layout"] if self.layout != AUTO else []
            require(not useless, f"{', '.join(useless)} needs --interactions=FILE beside it.")
        else:
            useless = self._set(*_BY_NAME)
            require(not useless, f"{', '.join(useless)} is for datasets by name; remove it.")
        if self.items is None:
            useless = self._set(*_FOR_ITEMS)
            require(not useless, f"{', '.join(useless)} needs --items=FILE beside it.")
        _ = self.interactions_format, self.items_format

    @property
    def interactions_format(self) -> TextFormat:
        """How the file of interactions is written."""
        return self._text_format(self.columns, self.separator)

    @property
    def items_format(self) -> TextFormat:
        """How the file of items is written."""
        return self._text_format(self.item_columns, self.item_separator)

    def _text_format(
        self, columns: str | tuple[str, ...] | None, separator: str | None
    ) -> TextFormat:
        return TextFormat(
            columns=None if columns is None else names(columns),
            separator=None if separator is None else _unescaped(separator),
            encoding=self.encoding or "utf-8",
        )

    def _set(self, *keys: str) -> list[str]:
        return [key for key in keys if getattr(self, key) is not None]


def _unescaped(separator: str) -> str:
    """``\\t`` and ``\\x01`` as the characters they stand for."""
    if "\\" not in separator or not separator.isascii():
        return separator
    try:
        return separator.encode("ascii").decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"The separator {separator!r} is not a character; write a tab as \\t, for example."
        ) from error
