"""How many rows of a file were read, and why others were dropped."""

from __future__ import annotations

import dataclasses
import logging

logger = logging.getLogger(__name__)

MOST_LOST = 0.1
"""The share of rows or of ids beyond which a loss has to be allowed."""


@dataclasses.dataclass
class RowCounts:
    """What became of the rows of a file; readers fill it.

    Attributes
    ----------
    read : int
        Rows of the file.
    dropped : dict of str to int
        Rows that were left out, by reason.
    columns_taken : list of str
        Columns of the file that are used.
    columns_left : list of str
        The others.
    notes : list of str
        What else should be said of the file, each a sentence.
    """

    read: int = 0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    columns_taken: list[str] = dataclasses.field(default_factory=list)
    columns_left: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def kept(self) -> int:
        """Rows that were not dropped."""
        return self.read - sum(self.dropped.values())

    def add(self, reason: str, count: int = 1) -> None:
        """Count rows that were dropped for a reason; none of them makes no entry."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def note(self, sentence: str, *, warn: bool = False) -> None:
        """Keep a sentence on the file; with `warn`, log it as well."""
        if warn:
            logger.warning("%s", sentence)
        self.notes.append(sentence)
