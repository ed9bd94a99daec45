"""Benchmarks as data: the runs that a table or figure needs, and the paper's printed results."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from recbole.utils import ModelType

from recbole_hellm import registry
from recbole_hellm.benchmark.paper import METRICS, TABLE_1, TABLE_3
from recbole_hellm.errors import ConfigError, nearest
from recbole_hellm.runs.directory import content_hash

GENERAL = ("LightGCN", "VBPR", "GRCN", "LATTICE", "SLMRec", "BM3", "FREEDOM", "HeLLMPre")
SEQUENTIAL = ("SASRec", "CoLLM", "LLaRA", "HeLLM")


@dataclasses.dataclass(frozen=True)
class Family:
    """Methods that are compared with a reference method.

    Attributes
    ----------
    reference : str
        The method whose advantage over every other method is tested.
    models : tuple of str
        Names as on the command line, including the reference, in the order of the table.
    """

    reference: str
    models: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.reference not in self.models:
            raise ConfigError(
                f"The reference '{self.reference}' is not among the models "
                f"({', '.join(self.models)}); add it to them."
            )


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of methods on one dataset.

    Attributes
    ----------
    name, title : str
    families : tuple of Family
    metrics : tuple of str
    printed : mapping
        model -> dataset -> metric -> the paper's result.
    settings : mapping
        model -> settings in which its runs differ from the defaults.
    notes : tuple of str
        Notes for the reader on these settings.
    """

    name: str
    title: str
    families: tuple[Family, ...]
    metrics: tuple[str, ...] = METRICS
    printed: Mapping[str, Mapping[str, Mapping[str, float]]] = dataclasses.field(
        default_factory=dict
    )
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """All methods, each once."""
        return tuple(dict.fromkeys(itertools.chain(*(family.models for family in self.families))))

    def figures(self, model: str, dataset: str) -> Mapping[str, float]:
        """The paper's results of a method by metric; empty where it has no such row."""
        return self.printed.get(model, {}).get(dataset, {})


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel of a figure: the test metrics of a model over values of one or two settings.

    Attributes
    ----------
    title : str
        The symbol of the paper.
    axes : mapping of str to tuple
        Setting -> its values. Every combination is a run.
    """

    title: str
    axes: Mapping[str, tuple[Any, ...]]

    def points(self) -> Iterator[dict[str, Any]]:
        """Settings of each run."""
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Exempt:
    """Points of a figure that need further settings.

    Attributes
    ----------
    where : mapping
        Setting -> value of those points.
    settings : mapping
        Further settings of their runs.
    note : str
        The reason, for the reader.
    """

    where: Mapping[str, Any]
    settings: Mapping[str, Any]
    note: str

    def covers(self, point: Mapping[str, Any]) -> bool:
        """Whether this exemption applies to a point."""
        return all(key in point and point[key] == value for key, value in self.where.items())


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure over settings of one model.

    Attributes
    ----------
    name, title, model : str
    panels : tuple of Panel
    metrics : tuple of str
    exempt : tuple of Exempt
    """

    name: str
    title: str
    model: str
    panels: tuple[Panel, ...]
    metrics: tuple[str, ...] = METRICS[2:]
    exempt: tuple[Exempt, ...] = ()

    def exemptions(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Further settings of a point's run, from the exemptions that apply to it."""
        settings: dict[str, Any] = {}
        for exemption in self.exempt:
            if exemption.covers(point):
                settings |= exemption.settings
        return settings


Benchmark = Table | Figure

_ABLATIONS = {
    base: (*(name for name in TABLE_3 if name.startswith(f"{base}-wo-")), base)
    for base in ("HeLLMPre", "HeLLM")
}
# Without the contrast the first stage begins with content alone: its validation metric falls before
# it rises, and the default patience of 6 epochs would stop it early. The authors use 30 epochs
# (docs/method.md, Pre-training schedule).
_PATIENT = {"stopping_step": 29}
BENCHMARKS: dict[str, Benchmark] = {
    "table1": Table(
        "table1",
        "Every method (the paper's Table 1, with SASRec and HeLLM's first stage)",
        (Family("HeLLM", (*GENERAL, *SEQUENTIAL)),),
        # The first stage has its row in the paper's Table 3.
        printed={"HeLLMPre": TABLE_3["HeLLMPre"], **TABLE_1},
    ),
    "table3": Table(
        "table3",
        "Ablations of both stages (the paper's Table 3)",
        tuple(Family(base, models) for base, models in _ABLATIONS.items()),
        METRICS[2:],
        TABLE_3,
        dict.fromkeys(_ABLATIONS["HeLLMPre"], _PATIENT),
        (
            "The first stage and its ablations train until 30 epochs in a row are no better, as "
            "the authors' do, or for 100 epochs; HeLLM's stage is the default one, which waits "
            "for 6.",
        ),
    ),
    "fig3": Figure(
        "fig3",
        "HeLLM's first stage over its hyper-parameters (the paper's Figure 3)",
        "HeLLMPre",
        (
            # Section 4.1.4: K from 1 to 30 in steps of 5, tau from 0.1 to 1 in steps of 0.1.
            Panel("K", {"knn_k": (1, 5, 10, 15, 20, 25, 30)}),
            Panel("τ", {"tau": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}),
            # Sections 4.4.4 and 4.4.5 name only the best values, 1e-3 and 256.
            Panel("λ", {"reg_weight": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}),
            Panel("d", {"embedding_size": (16, 32, 64, 128, 256, 512)}),
        ),
    ),
    "fig4": Figure(
        "fig4",
        "HeLLM's first stage over the weights of its contrasts (the paper's Figure 4)",
        "HeLLMPre",
        (
            # Section 4.1.4: 0.1 to 0.9 in steps of 0.2; section 4.4.1 adds 0.
            Panel(
                "α x β",
                {
                    "alpha_u2u": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
                    "beta_i2i": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
                },
            ),
        ),
        METRICS[2:3],
        (
            Exempt(
                {"alpha_u2u": 0.0},
                _PATIENT,
                "Without the users' contrast the model begins with content alone, falls and rises "
                "slowly, so these points (α = 0) train until 30 epochs in a row are no better, or "
                "for 100 epochs; the others wait for 6.",
            ),
        ),
    ),
}
"""Benchmarks by name, for ``recbole-hellm compare --benchmark=NAME``."""


def paper_masking(model: str) -> str:
    """The masking of a method's row in the paper: training items, or none for LLMs."""
    kind = getattr(registry.model_class(model), "type", None)
    return "none" if kind == ModelType.SEQUENTIAL else "train"


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    if name not in BENCHMARKS:
        raise ConfigError(
            f"Unknown benchmark '{name}'{nearest(name, BENCHMARKS)} use one of "
            f"{', '.join(BENCHMARKS)}, or name models with --models."
        )
    return BENCHMARKS[name]


def short_name(models: tuple[str, ...]) -> str:
    """Names of methods as a part of a file name."""
    name = "-".join(models)
    return name if len(name) <= 60 else f"{name[:47]}-{content_hash(models)}"


def ad_hoc(models: tuple[str, ...], reference: str | None) -> Table:
    """A table of the named methods; the last one is the reference by default."""
    if not models:
        raise ConfigError("--models names no model; `recbole-hellm models` lists them.")
    family = Family(reference or models[-1], models)
    return Table(short_name(models), "Comparison", (family,), printed={**TABLE_3, **TABLE_1})
