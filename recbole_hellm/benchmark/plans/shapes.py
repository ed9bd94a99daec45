"""What a plan of a table or a figure holds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from recbole_hellm.benchmark.paper import METRICS
from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation.metric import Metric
from recbole_hellm.evaluation.metrics import BUILT_IN


@dataclasses.dataclass(frozen=True)
class Family:
    """Methods that are compared with one of them.

    Attributes
    ----------
    reference : str
        The method whose advantage over each other one is tested.
    models : tuple of str
        Names as on the command line, the reference among them, in the order of the table.
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
        model -> dataset -> metric -> the paper's figure.
    settings : mapping
        model -> settings in which its runs differ from the defaults.
    notes : tuple of str
        What a reader must know of that.
    asked : mapping of str to Metric
        Metrics that the user wants to see beside the table's, by ``name@k``.
    paths : mapping of str to str
        What configurations call a method, by the name in the table, where these differ: the model
        of which a row is a setting, or the import path of a model outside this package.
    others : bool
        Whether to show what others published for the same split.
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
    asked: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    paths: Mapping[str, str] = dataclasses.field(default_factory=dict)
    others: bool = False

    @property
    def shown(self) -> tuple[str, ...]:
        """The table's metrics, and those that the user asks for."""
        return tuple(dict.fromkeys((*self.metrics, *self.asked)))

    def metric(self, key: str) -> Metric:
        """The metric of ``name@k``."""
        return self.asked[key] if key in self.asked else BUILT_IN[key.partition("@")[0]]

    @property
    def told_apart_by(self) -> frozenset[str]:
        """Settings in which rows of one model differ."""
        of_model: dict[str, list[Mapping[str, Any]]] = {}
        for name in self.models:
            of_model.setdefault(self.paths.get(name, name), []).append(self.settings.get(name, {}))
        several = [rows for rows in of_model.values() if len(rows) > 1]
        return frozenset(key for rows in several for row in rows for key in row)

    @property
    def models(self) -> tuple[str, ...]:
        """All methods, each once."""
        return tuple(dict.fromkeys(itertools.chain(*(family.models for family in self.families))))

    def figures(self, model: str, dataset: str) -> Mapping[str, float]:
        """What the paper printed for a method, by metric; empty where it has no such row."""
        return self.printed.get(model, {}).get(dataset, {})


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel of a figure: the test metrics of a model over values of one setting, or of two.

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
    """Points of a figure that need other settings than the rest.

    Attributes
    ----------
    where : mapping
        Setting -> value of those points.
    settings : mapping
        What their runs have beside the point's own settings.
    note : str
        Why, for the reader.
    """

    where: Mapping[str, Any]
    settings: Mapping[str, Any]
    note: str

    def covers(self, point: Mapping[str, Any]) -> bool:
        """Whether a point is one of them."""
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

    @property
    def told_apart_by(self) -> frozenset[str]:
        """Settings in which its points differ."""
        return frozenset(key for panel in self.panels for key in panel.axes)

    def exemptions(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a point's run beside the point itself."""
        settings: dict[str, Any] = {}
        for one in self.exempt:
            if one.covers(point):
                settings |= one.settings
        return settings


Benchmark = Table | Figure
