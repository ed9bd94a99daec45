"""The k-core of a dataset: every user and every item has at least k interactions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_hellm.errors import ConfigError, DataError


def k_core(interactions: pd.DataFrame, k: int) -> pd.DataFrame:
    """Drop users and items with fewer than `k` interactions until none is left.

    The result is the largest subset of the rows in which every user and item has `k` rows; it does
    not depend on the order of dropping. Each interaction counts, also a user's second one with an
    item, as in the published 5-core files.

    Parameters
    ----------
    interactions : DataFrame
        Columns user_id and item_id, any others kept; not modified.
    k : int

    Returns
    -------
    DataFrame
        The remaining rows in their order, with a fresh index.

    Raises
    ------
    ConfigError
        If `k` is negative.
    DataError
        If nothing is left.
    """
    if k < 0:
        raise ConfigError(f"k_core={k} must not be negative.")
    users, items = (_codes(interactions[key]) for key in ("user_id", "item_id"))
    rows = np.arange(len(interactions))
    while len(rows):
        often = [np.bincount(codes[rows])[codes[rows]] >= k for codes in (users, items)]
        enough = often[0] & often[1]
        if enough.all():
            break
        rows = rows[enough]
    if len(interactions) and not len(rows):
        raise DataError(f"No interaction is left in the {k}-core; choose a smaller --k_core.")
    return interactions.iloc[rows].reset_index(drop=True)


def _codes(tokens: pd.Series) -> npt.NDArray[np.int64]:
    return np.asarray(pd.factorize(tokens)[0], dtype=np.int64)
