"""Where a metric, or a gain, comes from: means over groups of users.

Every grouping divides the evaluated users by something that was fixed before any model was
trained, so the same groups serve all methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_hellm.data.interactions.splits import token_order
from recbole_hellm.errors import DataError
from recbole_hellm.evaluation.metrics import MetricSet
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.user_values import user_means

LENGTHS = {"1-2": 1, "3": 3, "4": 4, "5-6": 5, "7-9": 7, "10-19": 10, "20+": 20}
"""First number of training interactions of each group; 5-core data begins with 3."""
POPULARITIES = {"head": 0.0, "mid": 0.2, "tail": 0.8}
"""First share of training interactions that more popular items hold, for each group."""
WARMTHS = {"cold": 0, "few": 1, "warm": 5}
"""First number of training interactions of the target, for each group."""


@dataclasses.dataclass(frozen=True)
class Grouping:
    """A division of users: user u is in group ``labels[codes[u]]``; `codes` has shape [U]."""

    labels: tuple[str, ...]
    codes: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class UserSlices:
    """Groupings of the evaluated users by name.

    Attributes
    ----------
    users : ndarray of int64, shape [U]
        As in the :class:`Ranks` that are sliced.
    groupings : mapping of str to Grouping
    """

    users: npt.NDArray[np.int64]
    groupings: Mapping[str, Grouping]

    @classmethod
    def from_dataset(cls, dataset: Any) -> UserSlices:
        """Groups of a loaded dataset's test users by history, target and ties.

        Where users have several targets, by history alone.

        Parameters
        ----------
        dataset : CanonicalMixin
        """
        histories, counts = dataset.histories, dataset.training_counts
        users, targets = histories.evaluated("test"), histories.targets("test")
        by_history = {"history_length": by_history_length(histories.training_lengths[users])}
        if dataset.config["split"] != "leave_one_out":
            return cls(users, by_history)
        return cls(
            users,
            by_history
            | {
                "target_popularity": by_target_popularity(targets, counts),
                "target_warmth": by_target_warmth(targets, counts),
                "target_ties": by_target_ties(dataset.tied_tests),
            },
        )

    def in_token_order(self, tokens: Sequence[str] | np.ndarray) -> UserSlices:
        """The same groups for users numbered 0..U-1 by ascending token, as kept ranks are.

        Parameters
        ----------
        tokens : sequence of str, length U
            Token of each of :attr:`users`.
        """
        order = token_order(tokens)
        groupings = {
            name: Grouping(grouping.labels, grouping.codes[order])
            for name, grouping in self.groupings.items()
        }
        return UserSlices(np.arange(len(order)), groupings)


def by_history_length(lengths: np.ndarray) -> Grouping:
    """Groups :data:`LENGTHS` by each user's number of training interactions, [U], from 1 on."""
    return _binned(lengths, LENGTHS)


def by_target_popularity(targets: np.ndarray, counts: np.ndarray) -> Grouping:
    r"""Groups by how popular the target is among items.

    Item i is in the head, mid or tail as :math:`\sum_{j: c_j > c_i} c_j / \sum_j c_j`, the share of
    training interactions with more popular items, is below .2, below .8 or higher. So the head are
    the most popular items that hold a fifth of the interactions; equally popular items are in one
    group, which makes shares approximate, and items never trained on are in the tail.

    Parameters
    ----------
    targets : ndarray of int64, shape [U]
    counts : ndarray of int64, shape [N + 1]
        Training interactions by item id; that of padding, 0, is ignored.

    Raises
    ------
    DataError
        If there are no training interactions.
    """
    values, places, items = np.unique(counts[1:], return_inverse=True, return_counts=True)
    held = values * items
    if held.sum() == 0:
        raise DataError("Popularity needs training interactions, and there are none.")
    above = (held.sum() - np.cumsum(held)) / held.sum()
    return _binned(above[places.ravel()][targets - 1], POPULARITIES)


def by_target_warmth(targets: np.ndarray, counts: np.ndarray) -> Grouping:
    """Groups :data:`WARMTHS`; parameters as in :func:`by_target_popularity`."""
    return _binned(counts[targets], WARMTHS)


def by_target_ties(tied: np.ndarray) -> Grouping:
    """Whether the rule for equal times chose each user's test item, bool [U]."""
    return Grouping(("untied", "tied"), np.asarray(tied, dtype=bool).astype(np.int64))


def metrics_by_slice(
    ranks: Ranks | Sequence[Ranks],
    slices: UserSlices,
    metrics: MetricSet,
) -> pd.DataFrame:
    """Metrics of ranks of one method by group of users.

    Parameters
    ----------
    ranks : Ranks or sequence of Ranks
        Of one run, or of one for each seed: users' values are means over seeds.
    slices : UserSlices
    metrics : MetricSet

    Returns
    -------
    DataFrame
        As :func:`means_by_slice`; metrics are named ``metric@k`` in lower case.

    Raises
    ------
    DataError
        If `ranks` and `slices` are about different users.
    """
    runs = [ranks] if isinstance(ranks, Ranks) else list(ranks)
    for run in runs:
        if not np.array_equal(run.user_ids, slices.users):
            raise DataError(
                "Ranks and slices are about different users, or number them differently; bring "
                "both into token order."
            )
    by_run = [metrics.per_user(run) for run in runs]
    return means_by_slice(
        {key: np.stack([values[key] for values in by_run]) for key in by_run[0]}, slices
    )


def means_by_slice(values: Mapping[str, np.ndarray], slices: UserSlices) -> pd.DataFrame:
    r"""Means of any values by group of users, such as differences of two methods.

    A group contributes to the whole mean ``value * users / U``.

    Parameters
    ----------
    values : mapping of str to ndarray
        By name; shape [U], or [S, U] for several seeds.
    slices : UserSlices

    Returns
    -------
    DataFrame
        Columns ``grouping``, ``group``, ``users``, ``metric``, ``value`` and ``standard_error``,
        :math:`s / \sqrt n` over users, NaN for a single one. Groups without users are left out; the
        grouping ``all`` holds everyone.

    Raises
    ------
    DataError
        If there are not as many values as users, or one is not finite.
    """
    everyone = Grouping(("all",), np.zeros(len(slices.users), dtype=np.int64))
    rows = []
    for metric, table in values.items():
        means = user_means(table)
        if len(means) != len(slices.users):
            raise DataError(
                f"There are {len(means)} values of {metric} for {len(slices.users)} users."
            )
        for name, grouping in {"all": everyone, **slices.groupings}.items():
            for code, label in enumerate(grouping.labels):
                group = means[grouping.codes == code]
                if len(group):
                    error = np.nan
                    if len(group) > 1:
                        error = group.std(ddof=1) / np.sqrt(len(group))
                    rows.append((name, label, len(group), metric, group.mean(), error))
    columns = ["grouping", "group", "users", "metric", "value", "standard_error"]
    return pd.DataFrame(rows, columns=columns)


def _binned(values: np.ndarray, starts: Mapping[str, float]) -> Grouping:
    """Groups by the last start that a value reaches."""
    codes = np.searchsorted(list(starts.values()), values, side="right") - 1
    if (codes < 0).any():
        raise DataError(f"Groups begin with {min(starts.values())}, and a value is below.")
    return Grouping(tuple(starts), codes.astype(np.int64))
