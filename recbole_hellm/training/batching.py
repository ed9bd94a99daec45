"""Cuts a batch into parts that fit into memory, and counts the tokens they hold."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from recbole.data.interaction import Interaction

from recbole_hellm.data.interactions.loaders import trim_histories


class Part(NamedTuple):
    """Rows of a batch that go through the model together.

    Attributes
    ----------
    rows : ndarray of int64
        Their numbers in the batch.
    idle : bool
        Whether they belong to another part too and count nothing here: a process that has no rows
        of its own makes the same passes as the others, since they wait for each other.
    """

    rows: np.ndarray
    idle: bool = False


def plan(tokens: np.ndarray, max_tokens: int | None, parts: int = 1) -> list[Part]:
    """Parts of a batch, with every row in one of them, padded to the part's longest row.

    Rows are sorted by tokens, longest first, so that they hold little padding, and the fewest
    parts are made that the limit allows; among those, the largest is as small as it can be.

    Parameters
    ----------
    tokens : ndarray of int64, shape [B]
        Tokens of each row, B >= 1.
    max_tokens : int, optional
        Most tokens of a part, padding included. A row that holds more stands alone.
    parts : int
        The number of parts is a multiple of this, the number of processes; neighbours in the list
        are of similar size.

    Returns
    -------
    list of Part
        A batch that needs no cut keeps the order of its rows.
    """
    count = len(tokens)
    limit = int(count * max(1, tokens.max())) if max_tokens is None else max_tokens
    order = np.argsort(-tokens, kind="stable")
    falling = np.maximum(tokens[order], 1)
    wanted = -(-(len(_starts(falling, limit))) // parts) * parts
    if wanted == 1:
        return [Part(np.arange(count))]
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        if len(_starts(falling, middle)) <= wanted:
            high = middle
        else:
            low = middle + 1
    found = [Part(rows) for rows in np.split(order, _starts(falling, low)[1:])]
    while len(found) < min(wanted, count):
        sizes = [len(p.rows) * max(1, tokens[p.rows[0]]) * (len(p.rows) > 1) for p in found]
        largest = int(np.argmax(sizes))
        halves = np.array_split(found[largest].rows, 2)
        found[largest : largest + 1] = [Part(rows) for rows in halves]
    return found + [Part(np.zeros(1, dtype=np.int64), idle=True)] * (wanted - len(found))


def _starts(falling: np.ndarray, limit: int) -> list[int]:
    """First row of each part when parts are filled up to `limit`, longest rows first."""
    starts, row = [], 0
    while row < len(falling):
        starts.append(row)
        row += max(1, limit // int(falling[row]))
    return starts


@dataclasses.dataclass
class TokenCount:
    """Tokens that went through a model, and the places they took up."""

    real: int = 0
    padded: int = 0

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(self.real + other.real, self.padded + other.padded)

    @property
    def padding_share(self) -> float:
        """Share of the places that held padding."""
        return 1 - self.real / self.padded if self.padded else 0.0

    def costs(self, seconds: float) -> dict[str, float]:
        """What a record tells; nothing of a model whose tokens are not counted."""
        if not self.padded:
            return {}
        return {
            "padding_share": self.padding_share,
            "tokens_per_second": self.real / max(seconds, 1e-9),
        }


class MicroBatcher:
    """Cuts the batches of one model.

    A model that can be cut gives ``sample_tokens(interaction)`` [B], the tokens of each row in a
    pass, ``pass_tokens(tokens)``, the tokens of a pass over such rows and the places they take up,
    and ``target_counts(interaction)`` [B], and its loss is the mean over the targets of the
    rows it is given. The batches of any other model stay whole.

    Parameters
    ----------
    model : nn.Module
    config : Mapping
        RecBole's configuration, for the names of its columns.
    max_tokens : int, optional
        See :func:`plan`.
    rank, world : int
        This process and the number of processes that share each batch.
    """

    def __init__(
        self, model: Any, config: Any, max_tokens: int | None, rank: int = 0, world: int = 1
    ) -> None:
        self.model = model if hasattr(model, "sample_tokens") else None
        self.fields = config["ITEM_LIST_LENGTH_FIELD"], config["LIST_SUFFIX"]
        self.max_tokens, self.rank, self.world = max_tokens, rank, world
        self.tokens = TokenCount()

    def split(self, interaction: Interaction) -> list[tuple[Interaction, float]]:
        """This process's parts of a batch, each with its share of the batch's targets."""
        if self.model is None:
            return [(interaction, 1.0)]
        tokens = self.model.sample_tokens(interaction).numpy()
        parts = plan(tokens, self.max_tokens, self.world)
        for part in parts:
            if not part.idle:
                self.tokens += TokenCount(*self.model.pass_tokens(tokens[part.rows]))
        if len(parts) == 1:
            return [(interaction, 1.0)]
        targets = self.model.target_counts(interaction).numpy()
        return [
            (
                trim_histories(interaction[part.rows], *self.fields),
                0.0 if part.idle else float(targets[part.rows].sum() / targets.sum()),
            )
            for part in parts[self.rank :: self.world]
        ]

    def samples(self, interaction: Interaction) -> int:
        """Targets of a batch, or its rows where the model does not tell."""
        if self.model is None:
            return len(interaction)
        return int(self.model.target_counts(interaction).sum())
