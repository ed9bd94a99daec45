"""Recommendations as the command line shows and writes them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tabulate import tabulate

from recbole_hellm.config.devices import AUTO, DEVICE_HELP
from recbole_hellm.config.settings import Settings, require, require_file_name, setting
from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.runs.recommending import Recommender
from recbole_hellm.storage.files import atomic_path, write_text
from recbole_hellm.storage.terminal import plain_text
from recbole_hellm.storage.text_files import read_text

SUFFIXES = {".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "table"}
WIDEST = 44  # characters of a title or of categories in a table
Format = Literal["table", "json", "csv", "parquet"]


class RecommendSettings(Settings):
    """For whom to recommend what, and in which form."""

    user: str | None = setting(None, "User tokens, separated by commas.")
    users: str | None = setting(None, "File with a user token per line.")
    all_users: bool = setting(False, "Recommend for every user.")
    history: str | None = setting(
        None,
        "Item tokens, oldest first, separated by commas, of a user the model has not seen "
        "(sequential and LLM models).",
    )
    topk: int = setting(10, "Items for each user.", ge=1)
    exclude_seen: bool = setting(True, "Leave out items of the user's history.")
    recent: int = setting(5, "Items of the user's history to show, newest first.", ge=0)
    format: Format | None = setting(None, "By default, what the ending of output says, or a table.")
    output: str | None = setting(None, "File to write; standard output otherwise.")
    data_path: str | None = setting(None, "Where the datasets lie if they have moved.")
    backbone: str | None = setting(None, "Where a frozen backbone lies if it has moved.")
    device: str = setting(AUTO, DEVICE_HELP)

    def validate_relations(self) -> None:
        """Check that one kind of user is asked for; raises :class:`ConfigError`."""
        kinds = [self.user, self.users, self.all_users or None, self.history]
        require(
            sum(kind is not None for kind in kinds) == 1,
            "Say for whom to recommend with one of --user=TOKEN, --users=FILE, --all_users or "
            "--history=ITEM1,ITEM2.",
        )
        require(
            self.chosen_format != "parquet" or self.output is not None,
            "Parquet is no text; name a file with --output=FILE.",
        )
        if self.output:
            require_file_name("output", self.output)
            suffix = Path(self.output).suffix.lower()
            require(
                self.format is not None or suffix in ("", *SUFFIXES),
                f"output={self.output}: there is no format {suffix}; let the name end in one of "
                f"{', '.join(SUFFIXES)}, or say what to write with --format.",
            )

    @property
    def chosen_format(self) -> Format:
        """The format asked for, or that of the file's ending."""
        if self.format or not self.output:
            return self.format or "table"
        return SUFFIXES.get(Path(self.output).suffix.lower(), "table")  # type: ignore[return-value]


def listing(run: str | Path, settings: RecommendSettings) -> str:
    """Recommendations of a run as text, or, with ``output``, the name of the file they are in.

    Raises
    ------
    HellmError
        For every mistake a user can make, in one sentence.
    """
    recommender = Recommender.open(
        run, settings.data_path, settings.backbone, device=settings.device
    )
    if settings.history is not None:
        history = _split(settings.history)
        frame = recommender.for_history(history, settings.topk, settings.exclude_seen)
        recent = {"": history[::-1][: settings.recent]}
    else:
        users = _users(recommender, settings)
        progress = settings.output is not None
        frame = recommender.for_users(users, settings.topk, settings.exclude_seen, progress)
        recent = {user: recommender.recent(user, settings.recent) for user in dict.fromkeys(users)}
    kind, metadata = settings.chosen_format, recommender.metadata
    if not settings.output:
        return _TEXTS[kind](frame, recent, metadata)
    path = Path(settings.output)
    try:
        if kind == "parquet":
            with atomic_path(path) as temporary:
                _flat(frame, recent, metadata).to_parquet(temporary, index=False)
        else:
            write_text(path, _TEXTS[kind](frame, recent, metadata) + "\n")
    except OSError as error:
        raise ConfigError(f"output={path} cannot be written ({error.strerror}).") from error
    return f"{path}: {len(frame):,} recommendations for {len(recent):,} users"


def _users(recommender: Recommender, settings: RecommendSettings) -> list[str]:
    if settings.all_users:
        return [str(token) for token in recommender.dataset.user_tokens]
    if settings.user is not None:
        return _split(settings.user)
    path = Path(str(settings.users))
    text = read_text(path, DataError, "give a UTF-8 text file with a user token per line")
    lines = enumerate(text.split("\n"), 1)
    numbered = [(number, line.strip()) for number, line in lines if line.strip()]
    field = recommender.dataset.uid_field
    known = recommender.dataset.field2token_id[field]
    if numbered and numbered[0][1] not in known and _is_header(numbered[0][1], field):
        del numbered[0]
    for number, token in numbered:
        try:
            recommender.ids("user", [token])
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    if not numbered:
        raise DataError(f"users={path} holds no user tokens; write one on each line.")
    return [token for _, token in numbered]


def _is_header(line: str, field: str) -> bool:
    return line.partition(":")[0].strip('"').lower() in (field.lower(), "user", "user_id", "users")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


Recent = dict[str, list[str]]  # item tokens by user, newest first


def _table(frame: pd.DataFrame, recent: Recent, metadata: ItemMetadata) -> str:
    blocks = []
    for name, found in frame.groupby("user", sort=False):
        user = str(name)
        shown = metadata.describe(recent[user])
        blocks.append(f"User {plain_text(user)}" if user else "Ad-hoc history")
        if len(shown):
            blocks += ["", "Recent history, newest first", _grid(shown)]
        listed = found.drop(columns="user").assign(score=found["score"].map("{:.4f}".format))
        blocks += ["", "Recommended", _grid(listed), ""]
    return "\n".join(blocks).rstrip("\n") or "No items are left to recommend."


def _grid(frame: pd.DataFrame) -> str:
    columns: dict[str, list[Any]] = {}
    for key in map(str, frame):
        cells = [plain_text(str(cell)) for cell in frame[key]]
        if key in ("title", "categories"):
            if not any(cells):
                continue  # the dataset has no item table
            cells = [_short(cell) for cell in cells]
        columns[key] = cells
    sides = ["right" if key in ("rank", "score") else "left" for key in columns]
    return tabulate(columns, headers="keys", disable_numparse=True, colalign=sides)


def _short(text: str) -> str:
    return textwrap.shorten(text, WIDEST, placeholder=" …") or text[:WIDEST]


def _json(frame: pd.DataFrame, recent: Recent, metadata: ItemMetadata) -> str:
    users = [
        {
            "user": user or None,
            "history": metadata.describe(recent[str(user)]).to_dict("records"),
            "recommendations": found.drop(columns="user").to_dict("records"),
        }
        for user, found in frame.groupby("user", sort=False)
    ]
    return json.dumps(users, indent=2, ensure_ascii=False)


def _flat(frame: pd.DataFrame, recent: Recent, metadata: ItemMetadata) -> pd.DataFrame:
    """One row a recommendation, the user's recent items in a column of their own."""
    texts = {
        user: "; ".join(f"{item} {metadata.title(item)}".strip() for item in items)
        for user, items in recent.items()
    }
    return frame.assign(history=[texts[user] for user in frame["user"]])


def _csv(frame: pd.DataFrame, recent: Recent, metadata: ItemMetadata) -> str:
    return _flat(frame, recent, metadata).to_csv(index=False, lineterminator="\n").rstrip("\n")


_TEXTS: dict[str, Callable[[pd.DataFrame, Recent, ItemMetadata], str]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
}
