"""Settings of ``recbole-hellm compare``."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from recbole_hellm import registry
from recbole_hellm.benchmark.plans.benchmarks import BENCHMARKS, ad_hoc, find_benchmark
from recbole_hellm.benchmark.plans.shapes import Benchmark, Figure
from recbole_hellm.config.settings import Settings, names, require, setting
from recbole_hellm.errors import ConfigError

MOST_SEEDS = 100
"""A larger number of seeds is taken for a seed that lacks its brackets."""


class CompareSettings(Settings):
    """What is compared, and where its records are."""

    benchmark: str | None = setting(
        None, f"A table or figure, of the paper or beside it: {', '.join(BENCHMARKS)}."
    )
    models: str | tuple[str, ...] | None = setting(
        None, "Models to compare, or a part of the benchmark's methods."
    )
    reference: str | None = setting(
        None, "The method that is tested against the others; the last of models by default."
    )
    datasets: str | tuple[str, ...] = setting("sample", "Datasets, one table each.")
    seeds: int | tuple[int, ...] = setting(
        1, "How many, counted up from the setting seed, or a list of seeds."
    )
    minutes: float | None = setting(
        None,
        "Further seeds only for a method whose first run trained within so many minutes, stages "
        "not counted; the shorter of wall-clock and processor time counts.",
        ge=0,
    )
    jobs: int = setting(1, "Runs at a time.", ge=1)
    records: str = setting(
        "records", "Folder of records; a run with a record there is not run again."
    )
    output: str | None = setting(None, "Folder for tables and plots as files.")
    kept_only: bool = setting(False, "Show what the records hold and run nothing.")

    @field_validator("seeds", mode="before")
    @classmethod
    def _check_seeds(cls, value: Any) -> Any:
        # Before pydantic checks types, whose message would be that a text is not a list.
        require(
            _are_seeds(value),
            f"seeds={value!r} must be a number from 1 upwards, or a list of different seeds like "
            "'[2025, 2026]'.",
        )
        require(
            isinstance(value, list | tuple) or value <= MOST_SEEDS,
            f"seeds={value!r} asks for {value} seeds; write seeds='[{value}]' for the seed "
            f"{value}, or a number up to {MOST_SEEDS}.",
        )
        return value

    def validate_relations(self) -> None:
        """Check what concerns several fields; raises :class:`ConfigError`."""
        require(
            self.benchmark is not None or self.models is not None,
            "compare needs --benchmark=NAME or --models=A,B,C.",
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
        """The benchmark, or a table of the named models.

        Raises
        ------
        ConfigError
            If the benchmark is unknown, or it has no such models.
        """
        models = names(self.models)
        if self.benchmark is None:
            return ad_hoc(models, self.reference)
        plan = find_benchmark(self.benchmark)
        if models and isinstance(plan, Figure):
            raise ConfigError(f"{plan.name} is about {plan.model}; leave --models out.")
        return plan

    @property
    def chosen(self) -> tuple[str, ...]:
        """The selected methods of a table; the one model of a figure."""
        plan = self.plan
        if isinstance(plan, Figure):
            return (plan.model,)
        chosen = tuple(map(registry.class_name, names(self.models))) or plan.models
        for name in chosen:
            if name not in plan.models:
                raise ConfigError(
                    f"{plan.name} has no method '{name}'; use some of {', '.join(plan.models)}."
                )
        return tuple(name for name in plan.models if name in chosen)


def _are_seeds(value: Any) -> bool:
    """Whether a value is a number of seeds, or a list of different seeds."""
    listed = isinstance(value, list | tuple)
    if not all(type(seed) is int for seed in (value if listed else [value])):
        return False
    return 0 < len(value) == len(set(value)) if listed else value >= 1
