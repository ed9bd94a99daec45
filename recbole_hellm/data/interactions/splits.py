"""The order of interactions, the split that follows from it, and proofs of both.

Amazon times have day resolution, so many users' last two interactions share one time stamp and the
rule for ties decides what is validation and what is test. The rule is fixed here, once: by user
token, then time, then item token, ascending and stable (docs/method.md, Order of interactions).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_hellm.data.interactions.held_out import MIN_INTERACTIONS
from recbole_hellm.errors import DataError

POSITION = "position"


def canonical_order(frame: pd.DataFrame, user: str, item: str, time: str | None) -> pd.DataFrame:
    """Sort interactions by user token, time and item token, and number each user's rows.

    Parameters
    ----------
    frame : DataFrame
        One row per interaction, in any order; not modified.
    user, item : str
        Columns of tokens; compared as strings by code point, whatever their type.
    time : str or None
        Column of times, compared as int64 or float64. None keeps each user's rows as they come.

    Returns
    -------
    DataFrame
        The same columns with string tokens, a fresh index, and the int64 column ``position``: the
        0-based rank of a row within its user.

    Raises
    ------
    DataError
        If a column is absent, a token is missing, or a time is missing or no number.
    """
    users, items = _tokens(frame, user), _tokens(frame, item)
    keys: list[np.ndarray] = [_ranks(users)]
    if time is not None:
        keys = [_ranks(items), _times(frame, time), *keys]
    order = np.lexsort(keys)
    ordered = frame.iloc[order].reset_index(drop=True)
    ordered[user], ordered[item] = users[order], items[order]
    starts, lengths = _runs(keys[-1][order])
    ordered[POSITION] = np.arange(len(order), dtype=np.int64) - np.repeat(starts, lengths)
    return ordered


def tied_test_users(frame: pd.DataFrame, user: str, time: str) -> int:
    """Number of users whose last two interactions share one time stamp.

    Their test item depends on the rule for ties; 9,719 of Beauty's 22,363 users are among them
    (docs/statistics.md).

    Raises
    ------
    DataError
        If a column is absent, a token is missing, or a time is missing or no number.
    """
    times, last = _last_times(frame, user, time, 2)
    return int((times[last] == times[last - 1]).sum())


def tied_validation_users(frame: pd.DataFrame, user: str, time: str) -> int:
    """Number of users whose second last interaction shares its time stamp with a neighbour.

    Their validation item depends on the rule for ties: it could have been the one before, or the
    test item. Of users with fewer than three interactions, who have none, nobody is counted.

    Raises
    ------
    DataError
        If a column is absent, a token is missing, or a time is missing or no number.
    """
    times, last = _last_times(frame, user, time, MIN_INTERACTIONS)
    valid = times[last - 1]
    return int(((valid == times[last]) | (valid == times[last - 2])).sum())


def leave_one_out_targets(frame: pd.DataFrame, user: str, item: str) -> pd.DataFrame:
    """Validation and test item of every user that has them.

    Parameters
    ----------
    frame : DataFrame
        Interactions in canonical order within each user.
    user, item : str
        Columns of tokens.

    Returns
    -------
    DataFrame
        Columns ``user``, ``valid`` (second last item) and ``test`` (last item), one row for each
        user with at least three interactions, by ascending user token.

    Raises
    ------
    DataError
        If a column is absent or a token is missing.
    """
    users, items = _tokens(frame, user), _tokens(frame, item)
    ranks = _ranks(users)
    order = np.argsort(ranks, kind="stable")
    starts, lengths = _runs(ranks[order])
    last = (starts + lengths - 1)[lengths >= MIN_INTERACTIONS]
    columns = {"user": users[order[last]], "valid": items[order[last - 1]]}
    return pd.DataFrame({**columns, "test": items[order[last]]})


def split_fingerprint(users: Sequence[str], valid: Sequence[str], test: Sequence[str]) -> str:
    """Hash of a leave-one-out split, independent of the order in which users are given.

    Parameters
    ----------
    users, valid, test : sequence of str
        User tokens, and the validation and test item token of each.

    Returns
    -------
    str
        SHA-256 in hex over the UTF-8 lines ``user <tab> valid <tab> test`` by ascending user token.

    Raises
    ------
    DataError
        If the three differ in length.
    """
    if not len(users) == len(valid) == len(test):
        raise DataError(
            f"A split of {len(users)} users with {len(valid)} validation and {len(test)} test "
            "items has no fingerprint; pass one of each per user."
        )
    return _digest("\t".join(row) for row in sorted(zip(users, valid, test, strict=True)))


def parts_fingerprint(rows: Iterable[tuple[str, str, str]]) -> str:
    """Hash of a split that may hold out several items of a user.

    Parameters
    ----------
    rows : iterable of (user, phase, item)
        A token, ``valid`` or ``test``, and a token of each held-out interaction, in any order.

    Returns
    -------
    str
        SHA-256 in hex over the UTF-8 lines ``user <tab> phase <tab> item`` in ascending order.
    """
    return _digest("\t".join(row) for row in sorted(rows))


def interactions_hash(frame: pd.DataFrame, user: str, item: str) -> str:
    """Hash of every user's items in order, by token: all that training and masking read.

    Parameters
    ----------
    frame : DataFrame
        Rows of each user in canonical order.
    user, item : str
        Columns of tokens.

    Returns
    -------
    str
        SHA-256 in hex, independent of the order of users.
    """
    groups = frame.groupby(user, sort=False)[item]
    return histories_hash((str(token), *map(str, items)) for token, items in groups)


def histories_hash(histories: Iterable[Iterable[str]]) -> str:
    """:func:`interactions_hash` of histories: of each user the token, then those of the items."""
    lines = ["\t".join(history) for history in histories]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def candidate_fingerprint(items: Iterable[str]) -> str:
    """SHA-256 in hex over the set of item tokens, one UTF-8 line each in ascending order."""
    return _digest(sorted(set(items)))


def token_order(tokens: Sequence[str] | np.ndarray) -> npt.NDArray[np.int64]:
    """Rows by ascending token, compared by code point; the fingerprint's order of users.

    Parameters
    ----------
    tokens : sequence of str, length n

    Returns
    -------
    ndarray of int64, shape [n]
    """
    return np.argsort(np.asarray(tokens, dtype=object), kind="stable")


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    if name not in frame.columns:
        raise DataError(
            f"The interactions have no column '{name}' (they have {', '.join(map(str, frame))}); "
            "add it, or name the right one."
        )
    missing = frame[name].isna().to_numpy()
    if missing.any():
        raise DataError(
            f"Column '{name}' of the interactions is empty in {int(missing.sum())} rows (first: "
            f"row {int(missing.argmax())}, counted from 0); fill them in or drop them."
        )
    return frame[name]


def _tokens(frame: pd.DataFrame, name: str) -> npt.NDArray[np.object_]:
    return _column(frame, name).astype(str).to_numpy(dtype=object)


def _times(frame: pd.DataFrame, name: str) -> np.ndarray:
    try:
        values = pd.to_numeric(_column(frame, name)).to_numpy()
    except (ValueError, TypeError) as error:
        raise DataError(
            f"Column '{name}' of the interactions holds something other than numbers ({error}); "
            "give times as numbers, for example Unix seconds."
        ) from error
    # int64 stays as it is: float64 would merge times above 2^53 (nanoseconds).
    return values.astype(np.int64 if values.dtype.kind in "iu" else np.float64)


def _last_times(
    frame: pd.DataFrame, user: str, time: str, least: int
) -> tuple[np.ndarray, npt.NDArray[np.int64]]:
    """Times by user and time, and the last place of each user with `least` interactions."""
    users, times = _ranks(_tokens(frame, user)), _times(frame, time)
    order = np.lexsort((times, users))
    starts, lengths = _runs(users[order])
    return times[order], (starts + lengths - 1)[lengths >= least]


def _ranks(tokens: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """Rank of each token among the distinct tokens, [n]."""
    codes, _ = pd.factorize(tokens, sort=True)
    return np.asarray(codes, dtype=np.int64)


def _runs(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First row and length of each run of equal values."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
    return starts, np.diff(np.r_[starts, len(values)])
