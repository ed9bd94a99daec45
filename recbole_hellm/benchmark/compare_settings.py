"""What ``recbole-hellm compare`` is told."""

from __future__ import annotations

import dataclasses
from typing import Any

from recbole_hellm.benchmark.plans import Benchmark, Figure, ad_hoc, named
from recbole_hellm.config.settings import Settings, names, require
from recbole_hellm.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CompareSettings(Settings):
    """How a comparison goes.

    Attributes
    ----------
    benchmark : str, optional
        A name among :data:`recbole_hellm.benchmark.plans.BENCHMARKS`.
    models : str or tuple of str, optional
        Methods: those of an ad-hoc comparison, or a part of the benchmark's table.
    reference : str, optional
        Of an ad-hoc comparison, the method that is tested against the others; the last by default.
    datasets : str or tuple of str
    seeds : int or tuple of int
        How many, counted up from the setting ``seed``, or which.
    minutes : float, optional
        A method gets further seeds only if its first run trained within so many minutes, stages
        not counted. On a shared machine the shorter one of wall-clock and processor time counts.
    jobs : int
        Runs at a time.
    records : str
        Folder of kept records: a run whose record lies there is not run again.
    output : str, optional
        Folder for the tables and plots as files.
    kept_only : bool
        Show what the records hold and run nothing.
    """

    benchmark: str | None = None
    models: str | tuple[str, ...] | None = None
    reference: str | None = None
    datasets: str | tuple[str, ...] = "sample"
    seeds: int | tuple[int, ...] = 1
    minutes: float | None = None
    jobs: int = 1
    records: str = "records"
    output: str | None = None
    kept_only: bool = False

    def __post_init__(self) -> None:
        # Before types are checked, since a text would be told that it is no list.
        require(
            _are_seeds(self.seeds),
            f"seeds={self.seeds!r} must be a number from 1 on, or a list of different seeds like "
            "'[2025, 2026]'.",
        )
        super().__post_init__()

    def validate(self) -> None:
        """Check ranges; raises :class:`ConfigError`."""
        require(
            self.benchmark is not None or self.models is not None,
            "compare needs --benchmark=NAME or --models=A,B,C.",
        )
        require(self.jobs >= 1, f"jobs={self.jobs} must be at least 1.")
        require(
            self.minutes is None or self.minutes >= 0,
            f"minutes={self.minutes} must not be negative.",
        )
        require(
            bool(names(self.datasets)),
            "--datasets names no dataset; write, for example, --datasets=Beauty,Toys.",
        )
        require(
            self.reference is None or self.benchmark is None,
            "reference is for --models; a benchmark has its own.",
        )

    @property
    def plan(self) -> Benchmark:
        """What is to be compared.

        Raises
        ------
        ConfigError
            If there is no such benchmark, or it has no such models.
        """
        chosen = names(self.models)
        if self.benchmark is None:
            return ad_hoc(chosen, self.reference)
        plan = named(self.benchmark)
        if chosen and isinstance(plan, Figure):
            raise ConfigError(f"{plan.name} is about {plan.model}; leave --models out.")
        return plan

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods of a table that are wanted."""
        plan = self.plan
        if isinstance(plan, Figure):
            return (plan.model,)
        chosen = names(self.models) or plan.models
        for name in chosen:
            if name not in plan.models:
                raise ConfigError(
                    f"{plan.name} has no method '{name}'; use some of {', '.join(plan.models)}."
                )
        return tuple(name for name in plan.models if name in chosen)


def _are_seeds(value: Any) -> bool:
    """Whether it is a number of seeds, or a list of different ones."""
    listed = isinstance(value, list | tuple)
    if not all(type(seed) is int for seed in (value if listed else [value])):
        return False
    return 0 < len(value) == len(set(value)) if listed else value >= 1
