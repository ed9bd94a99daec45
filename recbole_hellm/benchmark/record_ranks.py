"""Per-user ranks in a form that can be published: small, and without tokens of users or items.

Row u is the u-th user by ascending token, so that files of runs on one split (same fingerprint)
belong together row by row, whatever ids the runs gave their users. Where users have several
targets, two more columns tell whose each of them is and which are ranked together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_hellm.data.interactions.splits import token_order
from recbole_hellm.errors import DataError, RunError
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.storage.tables import read_parquet

CLIP = 255
"""Items above the target are counted up to here: metrics at a k up to this are exact."""

_COUNTS = ("higher", "tied", "candidates")
_KEPT = {"higher": np.uint8, "tied": np.uint32}
_OWNERS = ("user", "row")
_PREFIX = "ranks-"
_FILE = re.compile(rf"{_PREFIX}[^/]*\.parquet")


def read_run_ranks(directory: Path) -> dict[str, Ranks]:
    """Full ranks of a finished run by masking, users numbered 0..U-1 by ascending token.

    Raises
    ------
    RunError
        If there are none, a file is damaged or missing, or the files are about different users.
    """
    run = RunDirectory(Path(directory))
    names = run.listed()
    if names is None:  # an earlier version wrote it
        names = {path.name: "" for path in run.path.glob(f"{_PREFIX}*.parquet")}
    files = [run.verified(name) for name in sorted(names) if _FILE.fullmatch(name)]
    if not files:
        raise RunError(f"{directory} holds no per-user ranks; is this a finished run?")
    frames = {file: _read(file, run.way_out) for file in files}
    first = frames[files[0]]
    owners = [[name for name in _OWNERS if name in frame] for frame in frames.values()]
    if any(
        names != owners[0] or not first[names].equals(frame[names])
        for names, frame in zip(owners, frames.values(), strict=True)
    ):
        raise RunError(
            f"The ranks in {directory} are about different users under each masking; {run.way_out}."
        )
    rows = first["row"].to_numpy() if "row" in first else None
    ranks = {
        file.stem.removeprefix(_PREFIX): _ranks({name: frame[name] for name in _COUNTS}, rows)
        for file, frame in frames.items()
    }
    return in_token_order(ranks, first["user"].to_numpy())


def in_token_order(
    ranks_by_masking: Mapping[str, Ranks], tokens: Sequence[str] | np.ndarray
) -> dict[str, Ranks]:
    """The same ranks with users, and rows if there are any, numbered from 0 by ascending token.

    Parameters
    ----------
    ranks_by_masking : mapping of str to Ranks
    tokens : sequence of str, length T
        The token of each target's user.

    Raises
    ------
    DataError
        If there is not one token for each row.
    """
    order = token_order(tokens)
    users = np.cumsum(_changes(np.asarray(tokens, dtype=object)[order]))
    for masking, ranks in ranks_by_masking.items():
        if len(ranks.users) != len(order):
            raise DataError(
                f"{len(order)} user tokens do not fit {len(ranks.users)} ranks under {masking}."
            )
    return {
        masking: _ranks(
            {name: getattr(ranks, name)[order] for name in _COUNTS},
            None if ranks.rows is None else np.cumsum(_changes(ranks.rows[order])),
            None if ranks.rows is None else users,
        )
        for masking, ranks in ranks_by_masking.items()
    }


def _changes(values: np.ndarray) -> np.ndarray:
    """Whether each value differs from the one before; False for the first."""
    return np.r_[False, values[1:] != values[:-1]][: len(values)]


def compress_ranks(ranks_by_masking: Mapping[str, Ranks]) -> pd.DataFrame:
    """What is kept of a run's ranks.

    Parameters
    ----------
    ranks_by_masking : mapping of str to Ranks
        Users in ascending order of their tokens, as :func:`read_run_ranks` gives them.

    Returns
    -------
    DataFrame
        One row a user by ascending token, or one a target with the columns ``user`` and ``row``
        (uint32), if users have several; for each masking the columns ``<masking>.higher``
        (uint8) and ``<masking>.tied`` (uint32). A metric is spread over all the places that ties
        allow, so ties are exact, however many. A target with :data:`CLIP` items or more above it
        is kept as having exactly so many and no ties, which is 0 in every metric all the same.
    """
    columns = {}
    for masking, ranks in ranks_by_masking.items():
        below = ranks.higher >= CLIP
        columns[f"{masking}.higher"] = np.where(below, CLIP, ranks.higher)
        columns[f"{masking}.tied"] = np.where(below, 0, ranks.tied)
    kinds = {name: _KEPT[name.rpartition(".")[2]] for name in columns}
    first = next(iter(ranks_by_masking.values()))
    owners = {} if first.rows is None else {"user": first.users, "row": first.rows}
    kinds |= dict.fromkeys(owners, np.uint32)
    return pd.DataFrame({**owners, **columns}).astype(kinds)


def write_record_ranks(path: Path, frame: pd.DataFrame) -> None:
    """Write what :func:`compress_ranks` made, as compressed Parquet, atomically."""
    RunDirectory(path.parent).write_table(path.name, frame, compression="zstd")


def read_record_ranks(path: Path, way_out: str = "restore it") -> dict[str, Ranks]:
    """Kept ranks by masking, users numbered 0..U-1 by ascending token.

    Metrics at a k up to :data:`CLIP` are those of the full ranks. What is not kept is not there:
    ``candidates`` is 0, and ``mean_rank`` is a lower bound for users at the clip.

    Parameters
    ----------
    path : Path
    way_out : str
        The end of the sentence that is raised.

    Raises
    ------
    RunError
        If the file is missing, damaged, or something else.
    """
    frame = read_parquet(path, None, RunError, way_out)
    owners = [name for name in _OWNERS if name in frame]
    columns = [str(column) for column in frame if column not in owners]
    maskings = dict.fromkeys(column.partition(".")[0] for column in columns)
    wanted = {f"{masking}.{name}" for masking in maskings for name in _KEPT}
    if not wanted or wanted != {*columns} or len(owners) == 1:
        raise RunError(f"{path} holds no kept ranks, since something else wrote it; {way_out}.")
    _check_counts(frame, [*frame], path, way_out)
    for name in owners:
        if not frame[name].is_monotonic_increasing:
            raise RunError(f"{path} is damaged ('{name}' is not in order); {way_out}.")
    users, rows = (frame[name].to_numpy(np.int64) for name in owners) if owners else (None, None)
    unknown = np.zeros(len(frame), dtype=np.int64)
    return {
        masking: _ranks(
            {name: frame[f"{masking}.{name}"] for name in _KEPT} | {"candidates": unknown},
            rows,
            users,
        )
        for masking in maskings
    }


def _read(path: Path, way_out: str) -> pd.DataFrame:
    """Counts and the users they are about; with the row of each where users have several."""
    frame = read_parquet(path, ["user", *_COUNTS], RunError, way_out, optional=["row"])
    _check_counts(frame, [str(name) for name in frame if name != "user"], path, way_out)
    once = "row" in frame or frame["user"].is_unique
    if not once or not frame["user"].map(_is_text).all():
        raise RunError(f"{path} is damaged ('user' does not name everyone once); {way_out}.")
    return frame


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_counts(frame: pd.DataFrame, columns: Sequence[str], path: Path, way_out: str) -> None:
    for name in columns:
        if not pd.api.types.is_integer_dtype(frame[name]) or bool((frame[name] < 0).any()):
            raise RunError(f"{path} is damaged ('{name}' is no count); {way_out}.")


def _ranks(
    columns: Mapping[str, np.ndarray | pd.Series],
    rows: np.ndarray | None = None,
    users: np.ndarray | None = None,
) -> Ranks:
    counts = {name: np.asarray(values, dtype=np.int64) for name, values in columns.items()}
    users = np.arange(len(counts["higher"])) if users is None else users
    return Ranks(users=users, rows=rows, **counts)
