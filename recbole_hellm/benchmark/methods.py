"""Methods of a table: their kept runs over seeds, checked to be comparable."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recbole_hellm.benchmark.records import KeptRun
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
    """One method's runs, one a seed.

    Attributes
    ----------
    name : str
    runs : tuple of KeptRun
        In the order of their seeds.
    """

    name: str
    runs: tuple[KeptRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    def values(self, metric: str, masking: str) -> np.ndarray:
        """The metric of each run, float64, shape [S]."""
        return np.array([run.metrics(masking)[metric] for run in self.runs])

    def cost(self, key: str, of: str = "cost") -> float | None:
        """Mean over the runs of an entry of their cost; None where a run does not tell."""
        told = [run.record.get(of, {}).get(key) for run in self.runs]
        return None if None in told else float(np.mean([float(value) for value in told]))  # type: ignore[arg-type]

    @functools.cached_property
    def _ranks(self) -> list[dict[str, Ranks]]:
        return [run.ranks() for run in self.runs]

    def per_user(self, metric: str, masking: str) -> np.ndarray:
        """The metric of each user in each run, float64, shape [S, U]; users in one order.

        Raises
        ------
        RunError
            If a run's ranks were not kept.
        """
        name, _, k = metric.partition("@")
        return np.stack([per_user(ranks[masking], name, int(k)) for ranks in self._ranks])


def methods(runs: Mapping[str, Iterable[KeptRun]]) -> list[Method]:
    """Methods that have runs, which are checked to be comparable.

    Raises
    ------
    RunError
        If they are not; the sentence says what differs and names a run of each kind.
    """
    found = [Method(name, tuple(sorted(of, key=lambda run: run.seed))) for name, of in runs.items()]
    found = [method for method in found if method.runs]
    check_comparable([run for method in found for run in method.runs])
    return found


def check_comparable(runs: Sequence[KeptRun]) -> None:
    """Refuse runs that were not measured in the same way; see :func:`methods`."""
    for key, what in COMPARED.items():
        _check([(run, run.record[key]) for run in runs], what)
    fed = [run for run in runs if run.record.get("features")]
    _check([(run, run.record["features"]) for run in fed], "item features")


def _check(told: Sequence[tuple[KeptRun, object]], what: str) -> None:
    for run, value in told[1:]:
        first, expected = told[0]
        if value != expected:
            raise RunError(
                f"{first.path} and {run.path} have different {what} ({_brief(expected)} and "
                f"{_brief(value)}), so their figures do not belong into one table; leave one out."
            )


def _brief(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
