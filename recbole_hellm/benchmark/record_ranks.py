"""Per-user ranks in a form for publication: small, without tokens of users or items.

Row u is the u-th user by ascending token. Files of runs on one split (same fingerprint) therefore
match row by row, whatever internal ids the runs used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_hellm.data.interactions.splits import token_order
from recbole_hellm.errors import DataError, RunError
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.runs.directory import RunDirectory

CLIP = 255
"""Largest stored number of items above the target; metrics up to this k are exact."""

_COUNTS = ("higher", "tied", "candidates")
_STORED = {"higher": np.uint8, "tied": np.uint32}
_PREFIX = "ranks-"


def read_run_ranks(directory: Path) -> dict[str, Ranks]:
    """Full ranks of a finished run by masking, users numbered 0..U-1 by ascending token.

    Raises
    ------
    RunError
        If the directory holds no ranks, a file is damaged, or the files hold different users.
    """
    files = sorted(Path(directory).glob(f"{_PREFIX}*.parquet"))
    if not files:
        raise RunError(f"{directory} holds no per-user ranks; name a finished run.")
    frames = {file: _read(file, ["user", *_COUNTS]) for file in files}
    first = frames[files[0]]["user"]
    if any(not first.equals(frame["user"]) for frame in frames.values()):
        raise RunError(
            f"The ranks in {directory} hold different users under each masking; run it again."
        )
    ranks_by_masking = {
        file.stem.removeprefix(_PREFIX): _ranks({name: frame[name] for name in _COUNTS})
        for file, frame in frames.items()
    }
    return in_token_order(ranks_by_masking, first.to_numpy())


def in_token_order(
    ranks_by_masking: Mapping[str, Ranks], tokens: Sequence[str] | np.ndarray
) -> dict[str, Ranks]:
    """The same ranks with users numbered 0..U-1 by ascending token.

    Parameters
    ----------
    ranks_by_masking : mapping of str to Ranks
    tokens : sequence of str, length U
        The token of each row.

    Raises
    ------
    DataError
        If the numbers of tokens and rows differ.
    """
    order = token_order(tokens)
    for masking, ranks in ranks_by_masking.items():
        if len(ranks.users) != len(order):
            raise DataError(
                f"{len(order)} user tokens do not fit {len(ranks.users)} ranks under {masking}; "
                "pass one token per row."
            )
    return {
        masking: _ranks({name: getattr(ranks, name)[order] for name in _COUNTS})
        for masking, ranks in ranks_by_masking.items()
    }


def compress_ranks(ranks_by_masking: Mapping[str, Ranks]) -> pd.DataFrame:
    """The columns of a record's rank file.

    Parameters
    ----------
    ranks_by_masking : mapping of str to Ranks
        Users in ascending order of their tokens, as :func:`read_run_ranks` gives them.

    Returns
    -------
    DataFrame
        One row per user by ascending token; for each masking the columns ``<masking>.higher``
        (uint8) and ``<masking>.tied`` (uint32). A metric is averaged over all positions that ties
        allow, so ties are exact. A target with at least :data:`CLIP` items above it is stored with
        exactly :data:`CLIP` items above it and no ties; every metric is 0 either way.
    """
    columns = {}
    for masking, ranks in ranks_by_masking.items():
        below = ranks.higher >= CLIP
        columns[f"{masking}.higher"] = np.where(below, CLIP, ranks.higher)
        columns[f"{masking}.tied"] = np.where(below, 0, ranks.tied)
    kinds = {name: _STORED[name.rpartition(".")[2]] for name in columns}
    return pd.DataFrame(columns).astype(kinds)


def write_record_ranks(path: Path, frame: pd.DataFrame) -> None:
    """Write the result of :func:`compress_ranks` as compressed Parquet, atomically."""
    RunDirectory(path.parent).write_table(path.name, frame, compression="zstd")


def read_record_ranks(path: Path) -> dict[str, Ranks]:
    """Ranks of a record by masking, users numbered 0..U-1 by ascending token.

    Metrics at a k up to :data:`CLIP` equal those of the full ranks. ``candidates`` is not stored
    and therefore 0; ``mean_rank`` is a lower bound for users at the clip.

    Raises
    ------
    RunError
        If the file is missing, damaged, or not a record's rank file.
    """
    frame = _read(path)
    maskings = dict.fromkeys(str(column).partition(".")[0] for column in frame)
    expected = {f"{masking}.{name}" for masking in maskings for name in _STORED}
    if not expected or expected != set(frame):
        raise RunError(
            f"{path} does not hold the ranks of a record; restore the record, or remove its folder."
        )
    unknown = np.zeros(len(frame), dtype=np.int64)
    return {
        masking: _ranks(
            {name: frame[f"{masking}.{name}"] for name in _STORED} | {"candidates": unknown}
        )
        for masking in maskings
    }


def _read(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise RunError(
            f"{path} cannot be read as ranks ({error}); restore it, or run it again."
        ) from error


def _ranks(columns: Mapping[str, np.ndarray | pd.Series]) -> Ranks:
    counts = {name: np.asarray(values, dtype=np.int64) for name, values in columns.items()}
    return Ranks(users=np.arange(len(counts["higher"])), **counts)
