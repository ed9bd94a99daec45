"""Benchmarks as data: which runs a table or a figure needs, and what the paper printed there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from recbole.utils import ModelType

from recbole_hellm import registry
from recbole_hellm.benchmark.paper import METRICS, TABLE_1, TABLE_3
from recbole_hellm.errors import ConfigError, nearest
from recbole_hellm.evaluation.metric import Metric
from recbole_hellm.evaluation.metrics import BUILT_IN
from recbole_hellm.storage.checksums import content_hash

GENERAL = ("LightGCN", "VBPR", "GRCN", "LATTICE", "SLMRec", "BM3", "FREEDOM", "HeLLMPre")
SEQUENTIAL = ("SASRec", "BSARec", "WEARec", "CoLLM", "LLaRA", "HeLLM")


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

_ABLATIONS = {
    base: (*(name for name in TABLE_3 if name.startswith(f"{base}-wo-")), base)
    for base in ("HeLLMPre", "HeLLM")
}
# Without the contrast the first stage begins with content alone, falls and rises again, which the
# default patience of 6 epochs takes for the end. The authors' is 30 epochs
# (docs/method.md, Pre-training schedule).
_PATIENT = {"stopping_step": 29}
# The rows of `pretrained` that are not a registered model with its defaults on SmolLM2.
_TENTH = {"train_users": 0.1}
# So few users make 16 steps an epoch. Titles make histories ten times as long, so they are cut
# short and validated twice, and so are the rows that they are compared with.
_LONGER = {"epochs": 12, "eval_step": 6}
_TITLES = {"item_text_tokens": 8, **_LONGER}
_PAPERS_RECIPE = {
    "prompt": "alpaca",
    "targets": "last",
    "head": "linear",
    "item_vectors": False,
    "train_item_tables": False,
    "normalise_tables": False,
    "learning_rate": 3e-4,
    "learning_rate_min": 5e-6,
    "weight_decay": 0.1,
    "betas": (0.9, 0.95),
    "train_batch_size": 7,
    "epochs": 2,
}
_BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "HeLLM-static-prefix": ("HeLLM", {"prefix": "static"}),
    "HeLLM-no-prefix": ("HeLLM", {"prefix": "none"}),
    "HeLLM-random": ("HeLLM", {"random_backbone": True}),
    "HeLLM-random-trained": ("HeLLM", {"random_backbone": True, "train_backbone": True}),
    "HeLLM-8-layers": ("HeLLM", {"backbone_layers": 8}),
    "HeLLM-16-layers": ("HeLLM", {"backbone_layers": 16}),
    "HeLLM-30-layers": ("HeLLM", {"backbone_layers": 30}),
    "HeLLM-language": ("HeLLM", {"item_inputs": ("graph", "sequence", "language")}),
    "CoLLM": ("CoLLM", {}),
    "LLaRA": ("LLaRA", {}),
    "HeLLM-tiny": ("HeLLM", {"backbone": "tiny"}),
    "HeLLM": ("HeLLM", {}),
}
_SOME_USERS: dict[str, tuple[str, dict[str, Any]]] = {
    "HeLLM-tenth-papers-recipe": ("HeLLM", _PAPERS_RECIPE),
    "HeLLM-tenth-titles": ("HeLLM", {"item_text": "title", **_TITLES}),
    "LLaRA-tenth-titles": ("LLaRA-titles", _TITLES),
    "LLaRA-tenth": ("LLaRA", _LONGER),
    "HeLLM-tenth-tiny": ("HeLLM", {"backbone": "tiny", **_LONGER}),
    "HeLLM-tenth": ("HeLLM", _LONGER),
}
_PRETRAINED = _BACKBONES | {name: (m, s | _TENTH) for name, (m, s) in _SOME_USERS.items()}
# HeLLM-plus without one kind of its members, and with LLaRA in HeLLM's place.
_LEFT_OUT: dict[str, dict[str, Any]] = {
    "HeLLM-plus-wo-LLM": {"llm_model": None},
    "HeLLM-plus-wo-sequence": {"sequence_model": None},
    "HeLLM-plus-wo-graph": {"graph_model": None},
    "LLaRA-plus": {"llm_model": "LLaRA"},
}
_PLUS = registry.variant_settings(registry.OWN_MODELS["HeLLM-plus"])
_WITHOUT = {name: _PLUS | settings for name, settings in _LEFT_OUT.items()}
# The paper's read-out: a pass for each target, in which all items see the whole history's prefix.
_LAST = {"HeLLM-last-no-prefix": "HeLLM-wo-GNN_PEFT", "HeLLM-last": "HeLLM"}
BENCHMARKS: dict[str, Benchmark] = {
    "table1": Table(
        "table1",
        "Every method (the paper's Table 1, with sequential models and HeLLM's first stage)",
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
    "ranking": Table(
        "ranking",
        "The best ranking: HeLLM-plus, its parts and every other method",
        (Family("HeLLM-plus", (*GENERAL, *SEQUENTIAL, *_WITHOUT, "HeLLM-plus")),),
        settings=_WITHOUT,
        paths=dict.fromkeys(_WITHOUT, "Ensemble"),
        others=True,
    ),
    "prefix": Table(
        "prefix",
        "HeLLM with and without the graph prefix, under both ways to read it",
        (Family("HeLLM", ("HeLLM-wo-GNN_PEFT", "HeLLM")), Family("HeLLM-last", tuple(_LAST))),
        settings={name: {"targets": "last"} for name in _LAST},
        paths=_LAST,
        notes=(
            "In rows with 'last' each target has a pass of its own, in which all items see the "
            "prefix of the whole history, as in the paper (`targets=last`); in the others each "
            "item sees that of the items up to itself (`targets=every`).",
        ),
    ),
    "pretrained": Table(
        "pretrained",
        "Language models that have read: SmolLM2-135M under HeLLM, CoLLM and LLaRA",
        (Family("HeLLM", tuple(_BACKBONES)), Family("HeLLM-tenth", tuple(_SOME_USERS))),
        settings={
            name: {"backbone": "smollm2", **settings} for name, (_, settings) in _PRETRAINED.items()
        },
        paths={name: model for name, (model, _) in _PRETRAINED.items()},
        notes=(
            "The language models of rows with 'tenth' learn from a tenth of the users, for 12 "
            "epochs instead of 3 (the paper's recipe for 2); their stages learn from all users, "
            "who are also those that are evaluated.",
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
            # Sections 4.4.4 and 4.4.5 name the best values, 1e-3 and 256, and not the others.
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
