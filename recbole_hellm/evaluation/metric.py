"""What a metric is: the base classes of this package's metrics and of everybody else's.

A metric is one class. Its values come from the ranks of held-out items (:class:`RankMetric`) or
from recommended lists (:class:`ListMetric`, :class:`UserListMetric`). docs/own_metrics.md
has an example of each.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation.ranking import Ranks, means_of_runs
from recbole_hellm.evaluation.recommended import Catalogue, RecommendedLists

_LISTS = 4096  # lists that a metric of single lists gets at a time


class Metric(abc.ABC):
    """Base of the three kinds of metrics.

    Attributes
    ----------
    name : str
        In lower case; the class name by default. Results have the key ``name@k``.
    bigger_is_better : bool
    over_users : bool
        Whether each user has a value, so that users can be grouped and methods be tested over them.
    column : str
        Short name in the head of a table; `name` by default.
    spec : str
        Format of a value in a table of lists.
    """

    name: ClassVar[str]
    bigger_is_better: ClassVar[bool] = True
    over_users: ClassVar[bool] = False
    column: ClassVar[str] = ""
    spec: ClassVar[str] = ".4f"

    def __init_subclass__(cls) -> None:
        cls.name = str(vars(cls).get("name", cls.__name__)).lower()

    @property
    def head(self) -> str:
        """What tables call it."""
        return self.column or self.name


class RankMetric(Metric):
    """A metric of the places at which a user's held-out items are ranked.

    Subclasses define :meth:`gain`. One that needs more than the place, such as the number of
    candidates, overrides :meth:`per_user`. Where a ranking has several targets the metric is the
    mean over them, unless :meth:`per_row` says otherwise.
    """

    over_users = True

    @abc.abstractmethod
    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """Value of ``metric@k`` where the held-out item has a place.

        Parameters
        ----------
        places : ndarray of float64, shape [k]
            The places 1 to k. A lower place is worth 0.
        k : int

        Returns
        -------
        ndarray of float, shape [k]
        """

    def per_user(self, ranks: Ranks, k: int) -> np.ndarray:
        """Expected value of ``metric@k`` for each target, as if it were a user's only one, [T].

        Candidates with the same score as the held-out item can come in any order. The value is the
        mean over these orders.

        Parameters
        ----------
        ranks : Ranks
        k : int

        Raises
        ------
        ConfigError
            If :meth:`gain` does not give a value for each place.
        """
        cumulative = np.concatenate([[0.0], np.cumsum(self.gains(k))])
        first = np.minimum(ranks.higher, k)
        last = np.minimum(ranks.higher + ranks.tied + 1, k)
        return (cumulative[last] - cumulative[first]) / (ranks.tied + 1)

    def gains(self, k: int) -> np.ndarray:
        """:meth:`gain` of the places 1 to k, float64, shape [k], checked."""
        gains = np.asarray(self.gain(np.arange(1, k + 1, dtype=np.float64), k), dtype=np.float64)
        if gains.shape != (k,):
            raise ConfigError(
                f"The metric {self.name} gives a gain of shape {gains.shape} for {k} places; give "
                "one value a place."
            )
        return gains

    def per_row(self, ranks: Ranks, k: int) -> np.ndarray:
        """Expected value of ``metric@k`` for each ranking of one or several targets, [R].

        Parameters
        ----------
        ranks : Ranks
            With ``rows``.
        k : int
        """
        assert ranks.rows is not None  # noqa: S101
        alone = dataclasses.replace(ranks, rows=None)
        return means_of_runs(self.per_user(alone, k), ranks.rows)

    def of_users(self, ranks: Ranks, k: int) -> np.ndarray:
        """Expected value of ``metric@k`` for each user, float64, shape [U].

        Of a user with several rankings, their mean.
        """
        if ranks.rows is None:
            return self.per_user(ranks, k)
        return ranks.of_users(self.per_row(ranks, k))


class FunctionMetric(RankMetric):
    """The metric of a function that gives the gain of each place; named after it.

    Parameters
    ----------
    function : callable
        Takes places and k and returns gains, as :meth:`RankMetric.gain` does.
    """

    def __init__(self, function: Callable[[np.ndarray, int], np.ndarray]) -> None:
        self.function = function
        self.name = function.__name__.lower()  # type: ignore[misc]

    def gain(self, places: np.ndarray, k: int) -> np.ndarray:
        """What the function gives."""
        return self.function(places, k)


class ListMetric(Metric):
    """A metric of all recommended lists together, such as coverage. Subclasses define `value`."""

    @abc.abstractmethod
    def value(self, lists: RecommendedLists) -> float:
        """The metric of lists that are cut to k items."""

    def at(self, lists: RecommendedLists, k: int) -> float:
        """The value of ``metric@k`` for lists of k items or more."""
        return float(self.value(lists.top(k)))

    def lacks(self, catalogue: Catalogue, users: int, k: int) -> str:
        """What the metric needs and does not have; empty where it can be computed.

        Parameters
        ----------
        catalogue : Catalogue
        users : int
            Number of lists.
        k : int
        """
        return ""


class UserListMetric(ListMetric):
    """A metric with a value for each recommended list; its mean over users is reported."""

    over_users = True

    @abc.abstractmethod
    def per_list(self, lists: RecommendedLists) -> np.ndarray:
        """The metric of each list, shape [B], for a part of the users; lists are cut to k items."""

    def value(self, lists: RecommendedLists) -> float:
        """The mean over users."""
        return float(self.per_user(lists, lists.items.shape[1]).mean())

    def per_user(self, lists: RecommendedLists, k: int) -> np.ndarray:
        """The value of ``metric@k`` for each list, float64, shape [U]."""
        shown = lists.top(k)
        starts = range(0, len(shown.items), _LISTS)
        parts = [self.per_list(shown.rows(start, start + _LISTS)) for start in starts]
        return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
