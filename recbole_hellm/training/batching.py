"""Splits a batch into parts that fit into memory, and counts their tokens."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from recbole.data.interaction import Interaction

from recbole_hellm.data.interactions.loaders import trim_histories
from recbole_hellm.models.portions import Portion


class Part(NamedTuple):
    """Rows of a batch that go through the model together.

    Attributes
    ----------
    rows : ndarray of int64
        Row numbers in the batch.
    idle : bool
        Whether the rows repeat those of another part and have no weight. A process without rows
        still makes as many passes as the others, because processes wait for each other.
    """

    rows: np.ndarray
    idle: bool = False


def plan(tokens: np.ndarray, max_tokens: int | None, parts: int = 1) -> list[Part]:
    """Split a batch into parts; each part is padded to its longest row.

    Rows are sorted by tokens, longest first, which keeps padding small. The number of parts is the
    smallest that the limit allows, and the largest part is as small as possible.

    Parameters
    ----------
    tokens : ndarray of int64, shape [B]
        Tokens of each row, B >= 1.
    max_tokens : int, optional
        Most tokens of a part, padding included. A row with more tokens is a part of its own.
    parts : int
        The number of parts is a multiple of this number, the number of processes. Neighbours in
        the list have similar sizes.

    Returns
    -------
    list of Part
        A batch that fits into one part keeps the order of its rows.
    """
    count = len(tokens)
    limit = int(count * max(1, tokens.max())) if max_tokens is None else max_tokens
    order = np.argsort(-tokens, kind="stable")
    falling = np.maximum(tokens[order], 1)
    n_parts = -(-(len(_starts(falling, limit))) // parts) * parts
    if n_parts == 1:
        return [Part(np.arange(count))]
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        if len(_starts(falling, middle)) <= n_parts:
            high = middle
        else:
            low = middle + 1
    planned = [Part(rows) for rows in np.split(order, _starts(falling, low)[1:])]
    while len(planned) < min(n_parts, count):
        sizes = [len(p.rows) * max(1, tokens[p.rows[0]]) * (len(p.rows) > 1) for p in planned]
        largest = int(np.argmax(sizes))
        halves = np.array_split(planned[largest].rows, 2)
        planned[largest : largest + 1] = [Part(rows) for rows in halves]
    return planned + [Part(np.zeros(1, dtype=np.int64), idle=True)] * (n_parts - len(planned))


def _starts(falling: np.ndarray, limit: int) -> list[int]:
    """First row of each part when parts are filled up to `limit`, longest rows first."""
    starts, row = [], 0
    while row < len(falling):
        starts.append(row)
        row += max(1, limit // int(falling[row]))
    return starts


@dataclasses.dataclass
class TokenCount:
    """Tokens that went through a model, with and without padding."""

    real: int = 0
    padded: int = 0

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(self.real + other.real, self.padded + other.padded)

    @property
    def padding_share(self) -> float:
        """Share of padding among all tokens."""
        return 1 - self.real / self.padded if self.padded else 0.0

    def costs(self, seconds: float) -> dict[str, float]:
        """Cost entries of a record; empty for a model whose tokens are not counted."""
        if not self.padded:
            return {}
        return {
            "padding_share": self.padding_share,
            "tokens_per_second": self.real / max(seconds, 1e-9),
        }


class MicroBatcher:
    """Splits the batches of one model.

    Batches are split by tokens if the model has three methods: ``sample_tokens(interaction)`` [B],
    the tokens of each row; ``pass_tokens(tokens)``, the tokens of a pass over such rows without and
    with padding; and ``target_counts(interaction)`` [B]. Its loss must be the mean over the targets
    of the rows.

    The rows of other models' batches are divided among processes alone. Their losses must be means
    over the rows, beside terms that do not depend on rows. A model with ``portion_loss`` divides
    its batches itself.

    Parameters
    ----------
    model : nn.Module
    config : Mapping
        RecBole's configuration, which names the columns.
    max_tokens : int, optional
        See :func:`plan`.
    rank, world : int
        This process and the number of processes that share each batch.
    """

    def __init__(
        self, model: Any, config: Any, max_tokens: int | None, rank: int = 0, world: int = 1
    ) -> None:
        self.model = model if hasattr(model, "sample_tokens") else None
        self.portion = Portion() if hasattr(model, "portion_loss") else Portion(rank, world)
        self.fields = config["ITEM_LIST_LENGTH_FIELD"], config["LIST_SUFFIX"]
        self.max_tokens, self.rank, self.world = max_tokens, rank, world
        self.tokens = TokenCount()

    def split(self, interaction: Interaction) -> list[tuple[Interaction, float]]:
        """This process's parts of a batch, each with its share of the batch's targets or rows."""
        if self.model is None:
            return [(self.portion.of(interaction), self.portion.share(len(interaction)))]
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
        """Targets of a batch; its rows if the model does not count targets."""
        if self.model is None:
            return len(interaction)
        return int(self.model.target_counts(interaction).sum())
