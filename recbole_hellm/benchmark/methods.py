"""Methods of a table: their kept runs over seeds, checked to be comparable."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recbole_hellm.benchmark.record_ranks import CLIP
from recbole_hellm.benchmark.records import Record
from recbole_hellm.config.split_settings import described
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.metric import RankMetric
from recbole_hellm.evaluation.metrics import BUILT_IN
from recbole_hellm.evaluation.ranking import Ranks

COMPARED = {
    "dataset": "datasets",
    "protocol": "protocols",
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
    runs : tuple of Record
        In the order of their seeds.
    """

    name: str
    runs: tuple[Record, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    def values(self, metric: str, masking: str, phase: str = "test") -> np.ndarray:
        """The metric of each run on a phase, float64, shape [S]."""
        return np.array([run.metric(metric, masking, phase) for run in self.runs])

    @property
    def hardware(self) -> str:
        """What the first run was trained on; the costs are those of the runs on it."""
        return self.runs[0].hardware

    def cost(self, key: str, of: str = "cost") -> float | None:
        """Mean over the runs on :attr:`hardware` of an entry of their cost; costs of others differ.

        None where a run does not tell.
        """
        alike = [run for run in self.runs if run.hardware == self.hardware]
        costs = [run.record.get(of, {}).get(key) for run in alike]
        return None if None in costs else float(np.mean([float(cost) for cost in costs]))  # type: ignore[arg-type]

    @functools.cached_property
    def _ranks(self) -> list[dict[str, Ranks]]:
        return [run.ranks() for run in self.runs]

    def has_users(self, metric: str, masking: str) -> bool:
        """Whether the records tell the metric of each user."""
        if not all(run.detailed for run in self.runs):
            return False
        name, _, k = metric.partition("@")
        if isinstance(BUILT_IN.get(name), RankMetric):
            return int(k) <= CLIP
        return all((masking, metric) in run.user_values for run in self.runs)

    def per_user(self, metric: str, masking: str) -> np.ndarray:
        """The metric of each user in each run, float64, shape [S, U]; users in one order.

        Raises
        ------
        RunError
            If a run's ranks were not kept.
        """
        name, _, k = metric.partition("@")
        built_in = BUILT_IN.get(name)
        if isinstance(built_in, RankMetric):
            return np.stack([built_in.of_users(ranks[masking], int(k)) for ranks in self._ranks])
        return np.stack([run.user_values[masking, metric] for run in self.runs])


def methods(runs: Mapping[str, Iterable[Record]]) -> list[Method]:
    """Methods that have runs, which are checked to be comparable.

    Raises
    ------
    RunError
        If they are not; the sentence says what differs and names a run of each kind.
    """
    every = [Method(name, tuple(sorted(of, key=lambda run: run.seed))) for name, of in runs.items()]
    with_runs = [method for method in every if method.runs]
    check_comparable([run for method in with_runs for run in method.runs])
    return with_runs


def check_comparable(runs: Sequence[Record]) -> None:
    """Refuse runs that were not measured in the same way; see :func:`methods`."""
    for key, what in COMPARED.items():
        _check([(run, _compared(run, key)) for run in runs], what)
    fed = [run for run in runs if run.record.get("features")]
    _check([(run, run.record["features"]) for run in fed], "item features")


def _compared(run: Record, key: str) -> object:
    return described(run.record) or "the default" if key == "protocol" else run.record[key]


def _check(values: Sequence[tuple[Record, object]], what: str) -> None:
    for run, value in values[1:]:
        first, expected = values[0]
        if value != expected:
            raise RunError(
                f"{first.path} and {run.path} have different {what} ({_brief(expected)} and "
                f"{_brief(value)}), so their figures do not belong into one table; leave one out."
            )


def _brief(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
