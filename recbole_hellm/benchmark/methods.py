"""Methods of a table: the records of their runs over seeds, checked to be comparable."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recbole_hellm.benchmark.records import Record
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.ranking import Ranks, per_user

COMPARED = {
    "dataset": "datasets",
    "split": "splits (their users' validation and test items)",
    "candidates": "sets of candidate items",
    "masking": "masking policies under which an epoch was chosen",
    "users": "numbers of test users",
    "items": "numbers of candidate items",
}


@dataclasses.dataclass(frozen=True)
class Method:
    """The records of one method, one per seed.

    Attributes
    ----------
    name : str
    runs : tuple of Record
        In the order of their seeds.
    """

    name: str
    runs: tuple[Record, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    def values(self, metric: str, masking: str) -> np.ndarray:
        """The metric of each run, float64, shape [S]."""
        return np.array([run.metrics(masking)[metric] for run in self.runs])

    def cost(self, key: str, of: str = "cost") -> float | None:
        """Mean of a cost entry over the runs; None where a run lacks the entry."""
        costs = [run.record.get(of, {}).get(key) for run in self.runs]
        return None if None in costs else float(np.mean([float(value) for value in costs]))  # type: ignore[arg-type]

    @functools.cached_property
    def _ranks(self) -> list[dict[str, Ranks]]:
        return [run.ranks() for run in self.runs]

    def per_user(self, metric: str, masking: str) -> np.ndarray:
        """The metric of each user in each run, float64, shape [S, U]; users in one order.

        Raises
        ------
        RunError
            If a record has no ranks.
        """
        name, _, k = metric.partition("@")
        return np.stack([per_user(ranks[masking], name, int(k)) for ranks in self._ranks])


def methods(runs: Mapping[str, Iterable[Record]]) -> list[Method]:
    """Methods that have records, checked to be comparable.

    Raises
    ------
    RunError
        If they are not comparable; the message names what differs and two of the runs.
    """
    by_name = {name: sorted(of, key=lambda run: run.seed) for name, of in runs.items()}
    recorded = [Method(name, tuple(of)) for name, of in by_name.items() if of]
    check_comparable([run for method in recorded for run in method.runs])
    return recorded


def check_comparable(runs: Sequence[Record]) -> None:
    """Refuse runs that were not measured in the same way; see :func:`methods`."""
    for key, description in COMPARED.items():
        _check_equal([(run, run.record[key]) for run in runs], description)
    with_features = [run for run in runs if run.record.get("features")]
    _check_equal([(run, run.record["features"]) for run in with_features], "item features")


def _check_equal(values: Sequence[tuple[Record, object]], description: str) -> None:
    for run, value in values[1:]:
        first, expected = values[0]
        if value != expected:
            raise RunError(
                f"{first.path} and {run.path} have different {description} ({_brief(expected)} and "
                f"{_brief(value)}), so one table cannot hold both; leave one out."
            )


def _brief(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
