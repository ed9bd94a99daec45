"""Benchmarks by name, and tables of methods that a user names."""

from __future__ import annotations

from recbole.utils import ModelType

from recbole_hellm import registry
from recbole_hellm.benchmark.paper import TABLE_1, TABLE_3
from recbole_hellm.benchmark.plans.figures import FIGURES
from recbole_hellm.benchmark.plans.shapes import Benchmark, Family, Table
from recbole_hellm.benchmark.plans.tables import TABLES
from recbole_hellm.errors import ConfigError, nearest
from recbole_hellm.storage.checksums import content_hash

BENCHMARKS: dict[str, Benchmark] = {**TABLES, **FIGURES}
"""What ``recbole-hellm compare --benchmark=NAME`` knows."""


def paper_masking(model: str) -> str:
    """The masking under which the paper has a method's row: training items or, for LLMs, none."""
    kind = getattr(registry.model_class(model), "type", None)
    return "none" if kind == ModelType.SEQUENTIAL else "train"


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in BENCHMARKS:
        raise ConfigError(
            f"Unknown benchmark '{name}'{nearest(name, BENCHMARKS)} use one of "
            f"{', '.join(BENCHMARKS)}, or name models with --models."
        )
    return BENCHMARKS[name]


def short_name(models: tuple[str, ...]) -> str:
    """Methods as a part of a file's name."""
    name = "-".join(models)
    return name if len(name) <= 60 else f"{name[:47]}-{content_hash(models)}"


def ad_hoc(models: tuple[str, ...], reference: str | None) -> Table:
    """A table of methods that somebody names; the last one is the reference by default."""
    if not models:
        raise ConfigError("--models names no model; `recbole-hellm models` lists them.")
    paths = {registry.class_name(model): model for model in models}
    if len(paths) < len(set(models)):
        raise ConfigError(
            f"Two of the models {', '.join(models)} have the same name; rename a class or compare "
            "them one by one."
        )
    names = tuple(map(registry.class_name, models))
    family = Family(registry.class_name(reference or models[-1]), names)
    outside = {name: path for name, path in paths.items() if name != path}
    printed = {name: row for name, row in {**TABLE_3, **TABLE_1}.items() if name not in outside}
    return Table(short_name(names), "Comparison", (family,), printed=printed, paths=outside)
