"""Options of the command ``prepare``."""

from __future__ import annotations

from pathlib import Path

from recbole_hellm.config.settings import Settings, names, require, setting
from recbole_hellm.data.preparation.atomic import IMAGE, TEXT_COLUMNS
from recbole_hellm.data.preparation.delimited_text import TextFormat, unescaped
from recbole_hellm.data.preparation.versions import Replacing

AUTO = "auto"
_FOR_FILES = (
    *("columns", "separator", "encoding", "user_column", "item_column", "time_column"),
    "time_format",
)
_TEXT_COLUMNS = tuple(f"{role}_column" for role in (*TEXT_COLUMNS, IMAGE))
_FOR_ITEMS = (
    *("item_columns", "item_separator", "item_encoding", "items_item_column", *_TEXT_COLUMNS),
)
_BY_NAME = ("family", "raw_dir", "mirrors")


class PrepareSettings(Settings):
    """Options of ``prepare``."""

    family: str | None = setting(
        None, "Family of a dataset by name: a name, or an import path package.module:Class."
    )
    raw_dir: str | None = setting(
        None, "Folder of the raw files of a dataset by name; missing ones are downloaded to it."
    )
    mirrors: str | tuple[str, ...] | None = setting(
        None, "Where missing raw files are downloaded: addresses, a file that lists them, or none."
    )
    k_core: int | None = setting(None, "Keep users and items with this many interactions.", ge=0)
    interactions: str | None = setting(None, "File of interactions of your own.")
    items: str | None = setting(None, "File of items of your own.")
    columns: str | tuple[str, ...] | None = setting(
        None, "Names of all columns of interactions, if the file has no header."
    )
    item_columns: str | tuple[str, ...] | None = setting(
        None, "Names of all columns of items, if the file has no header."
    )
    separator: str | None = setting(
        None, "What separates the cells of interactions, such as '::' or '\\t' for a tab."
    )
    item_separator: str | None = setting(None, "What separates the cells of items.")
    encoding: str | None = setting(None, "Encoding of both files; UTF-8 if none is given.")
    item_encoding: str | None = setting(
        None, "Encoding of items, where it is not that of interactions."
    )
    layout: str = setting(
        AUTO, "What the columns of interactions mean: auto, table or a family such as amazon2018."
    )
    user_column: str | None = setting(None, "Column of users.")
    item_column: str | None = setting(None, "Column of items in the file of interactions.")
    time_column: str | None = setting(None, "Column of times.")
    time_format: str | None = setting(
        None, "How times are written where that is not ISO 8601, such as '%d.%m.%Y'."
    )
    quotes: bool = setting(True, "Whether double quotes can enclose cells.")
    items_item_column: str | None = setting(
        None,
        "Column of items in the file of items; by default the same as in interactions, if it is "
        "there, else one that is known by its name.",
    )
    title_column: str | None = setting(None, "Column of titles in the file of items.")
    brand_column: str | None = setting(None, "Column of brands.")
    categories_column: str | None = setting(None, "Column of categories.")
    description_column: str | None = setting(None, "Column of descriptions.")
    image_column: str | None = setting(None, "Column of addresses or paths of pictures.")
    allow_dropped: bool = setting(False, "Accept that more than a tenth of the rows are defective.")
    allow_unmatched: bool = setting(
        False, "Accept that more than a tenth of the items have no row in the file of items."
    )
    force: bool = setting(
        False, "Replace other data of this name on which runs stand; it is kept for these runs."
    )
    runs_dir: str = setting("runs", "Folder of runs that may stand on the dataset.")

    def validate_relations(self) -> None:
        """Check that every option has an effect; raises :class:`ConfigError`."""
        if self.interactions is None:
            useless = self._set("items", *_FOR_ITEMS, *_FOR_FILES)
            useless += ["layout"] if self.layout != AUTO else []
            useless += [] if self.quotes else ["quotes"]
            require(not useless, f"{', '.join(useless)} needs --interactions=FILE beside it.")
        else:
            useless = self._set(*_BY_NAME)
            require(not useless, f"{', '.join(useless)} is for datasets by name; remove it.")
        if self.items is None:
            useless = self._set(*_FOR_ITEMS)
            if self.interactions is not None:  # datasets by name have items of their own
                useless += self._set("allow_unmatched")
            require(not useless, f"{', '.join(useless)} needs --items=FILE beside it.")
        _ = self.interactions_format, self.items_format

    @property
    def interactions_format(self) -> TextFormat:
        """How the file of interactions is written."""
        return self._text_format(self.columns, self.separator, self.encoding)

    @property
    def items_format(self) -> TextFormat:
        """How the file of items is written."""
        encoding = self.item_encoding or self.encoding
        return self._text_format(self.item_columns, self.item_separator, encoding)

    @property
    def text_columns(self) -> dict[str, str]:
        """Named columns of the file of items by what they hold, such as ``title``."""
        named = {key.removesuffix("_column"): getattr(self, key) for key in _TEXT_COLUMNS}
        return {role: column for role, column in named.items() if column is not None}

    @property
    def replacing(self) -> Replacing:
        """Whether other data may be replaced."""
        return Replacing(self.force, Path(self.runs_dir).expanduser())

    def _text_format(
        self,
        columns: str | tuple[str, ...] | None,
        separator: str | None,
        encoding: str | None,
    ) -> TextFormat:
        return TextFormat(
            columns=None if columns is None else names(columns),
            separator=None if separator is None else unescaped(separator),
            encoding=encoding or "utf-8",
            quotes=self.quotes,
        )

    def _set(self, *keys: str) -> list[str]:
        return [key for key in keys if getattr(self, key) not in (None, False)]
