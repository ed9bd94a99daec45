"""Which models exist, what they need, and where their classes live.

This package's own models are declared here; every other name is looked up among RecBole's.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.resources
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.errors import ConfigError

RECBOLE_FAMILIES = (
    "general_recommender",
    "sequential_recommender",
    "context_aware_recommender",
    "knowledge_aware_recommender",
)
# Sequential models that mask padding and count positions from the left, so that cutting the padding
# of a batch off changes nothing (`bucket_by_length`). Variants are their base in this.
TRIMMABLE = ("GRU4Rec", "HeLLM", "SASRec")


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """One of this package's models, or a variant of one.

    A variant is a name that runs its base's class with the settings of
    ``properties/model/<variant>.yaml``, which holds nothing else, in place of the base's.

    Attributes
    ----------
    name : str
        The name on the command line; the class name unless it is a variant.
    module : str
        The module that defines the class.
    paper : str
        Where the method is from.
    inputs : tuple of str
        Among ``graph``, ``modalities`` and ``histories``; those of its stages included.
    stages : dict of str to str
        Role -> default model of each stage that has to be trained first. The configuration key
        ``<role>_model`` replaces the default.
    trainer : str
        ``module:Class`` of the trainer.
    kind : {"general", "sequential", "LLM"}
        What it scores items for: users, histories, or histories through a language model.
    variant_of : str, optional
        The model that this one is a variant of.
    """

    name: str
    module: str
    paper: str
    inputs: tuple[str, ...]
    stages: dict[str, str] = dataclasses.field(default_factory=dict)
    trainer: str = "recbole_hellm.training.trainer:HellmTrainer"
    kind: Literal["general", "sequential", "LLM"] = "general"
    variant_of: str | None = None


_GENERAL = "recbole_hellm.models.general"
_STAGED = "recbole_hellm.training.stages:StagedTrainer"
OWN_MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "VBPR",
            f"{_GENERAL}.vbpr",
            "He and McAuley, AAAI 2016",
            ("modalities",),
        ),
        ModelEntry(
            "GRCN",
            f"{_GENERAL}.grcn",
            "Wei et al., MM 2020",
            ("graph", "modalities"),
        ),
        ModelEntry(
            "LATTICE",
            f"{_GENERAL}.lattice",
            "Zhang et al., MM 2021",
            ("graph", "modalities"),
        ),
        ModelEntry(
            "SLMRec",
            f"{_GENERAL}.slmrec",
            "Tao et al., TMM 2022",
            ("graph", "modalities"),
        ),
        ModelEntry(
            "BM3",
            f"{_GENERAL}.bm3",
            "Zhou et al., WWW 2023",
            ("graph", "modalities"),
        ),
        ModelEntry(
            "FREEDOM",
            f"{_GENERAL}.freedom",
            "Zhou and Shen, MM 2023",
            ("graph", "modalities"),
        ),
        ModelEntry(
            "HeLLMPre",
            f"{_GENERAL}.hellm_pre",
            "Guo et al., HeLLM, sections 3.2-3.4",
            ("graph", "modalities"),
        ),
        ModelEntry(
            "HeLLM",
            "recbole_hellm.models.sequential.hellm",
            "Guo et al., HeLLM, section 3.5",
            ("graph", "modalities", "histories"),
            stages={"graph": "HeLLMPre", "sequence": "SASRec"},
            trainer=_STAGED,
            kind="LLM",
        ),
    )
}


def _variant(name: str, base: str, paper: str, inputs: tuple[str, ...] | None = None) -> ModelEntry:
    entry = OWN_MODELS[base]
    return dataclasses.replace(
        entry, name=name, paper=paper, inputs=inputs or entry.inputs, variant_of=base
    )


_TABLE_3 = "Guo et al., HeLLM, Table 3"
OWN_MODELS.update(
    (entry.name, entry)
    for entry in (
        _variant("CoLLM", "HeLLM", "Zhang et al., arXiv 2023", ("graph", "histories")),
        _variant("LLaRA", "HeLLM", "Liao et al., SIGIR 2024", ("histories",)),
        _variant("HeLLMPre-wo-U2U", "HeLLMPre", _TABLE_3),
        _variant("HeLLMPre-wo-I2I", "HeLLMPre", _TABLE_3, ("graph",)),
        _variant("HeLLMPre-wo-CL", "HeLLMPre", _TABLE_3),
        _variant("HeLLM-wo-GNN_PEFT", "HeLLM", _TABLE_3),
        _variant("HeLLM-wo-GNN_ID", "HeLLM", _TABLE_3),
        _variant("HeLLM-wo-Seq_ID", "HeLLM", _TABLE_3),
    )
)
# RecBole's models that belong to the paper's comparison: for listings, and where a class stands in
# for RecBole's of the same name. They are run as RecBole's others are.
COMPARED_MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "LightGCN",
            f"{_GENERAL}.lightgcn",
            "He et al., SIGIR 2020",
            ("graph",),
        ),
        ModelEntry(
            "SASRec",
            "recbole.model.sequential_recommender.sasrec",
            "Kang and McAuley, ICDM 2018",
            ("histories",),
            kind="sequential",
        ),
    )
}


def base_model(name: str) -> str:
    """The model that `name` is a variant of; `name` itself where it is none."""
    entry = OWN_MODELS.get(name)
    return (entry and entry.variant_of) or name


def recbole_models() -> dict[str, list[str]]:
    """Names of all models that RecBole itself offers, by family."""
    found = {}
    for family in RECBOLE_FAMILIES:
        package = importlib.import_module(f"recbole.model.{family}")
        found[family] = sorted(
            name
            for name, value in vars(package).items()
            if isinstance(value, type) and value.__module__.startswith(package.__name__)
        )
    return found


def recbole_model_names() -> list[str]:
    """Names of all models that RecBole itself offers."""
    return sorted({name for names in recbole_models().values() for name in names})


def recbole_model_keys(name: str) -> list[str]:
    """Keys of RecBole's own settings file for a model; empty where it has none."""
    path = importlib.resources.files("recbole") / "properties" / "model" / f"{name}.yaml"
    return list(read_yaml(Path(str(path)))) if path.is_file() else []


def model_class(name: str) -> type:
    """The class of the model called `name`; a variant's is its base's.

    Raises
    ------
    ConfigError
        If neither this package nor RecBole knows the name.
    """
    declared = OWN_MODELS.get(name) or COMPARED_MODELS.get(name)
    if declared:
        return getattr(importlib.import_module(declared.module), base_model(name))
    for family in RECBOLE_FAMILIES if name.isidentifier() else ():
        module_name = f"recbole.model.{family}.{name.lower()}"
        if importlib.util.find_spec(module_name):
            found = getattr(importlib.import_module(module_name), name, None)
            if isinstance(found, type):
                return found
    raise ConfigError(
        f"Unknown model '{name}'{nearest(name, [*OWN_MODELS, *recbole_model_names()])} "
        "`recbole-hellm models` lists all of them."
    )


def is_recbole(cls: type) -> bool:
    """Whether `cls` is one of RecBole's models or built on one."""
    return any(
        base.__module__.startswith(f"recbole.model.{family}")
        for base in cls.__mro__
        for family in RECBOLE_FAMILIES
    )


def trainer_class(name: str, model_type: Any) -> type:
    """The trainer of the model called `name`.

    RecBole's own special trainers are combined with this package's, so that evaluation, checkpoints
    and resuming are the same for every model.

    Raises
    ------
    ConfigError
        If RecBole trains the model with a loop of its own that cannot be combined.
    """
    from recbole.trainer import Trainer
    from recbole.utils import get_trainer

    if name in OWN_MODELS:
        module, _, attribute = OWN_MODELS[name].trainer.partition(":")
        return getattr(importlib.import_module(module), attribute)
    from recbole_hellm.training.epoch import TrainingPass
    from recbole_hellm.training.trainer import HellmTrainer, RunTrainer

    special = get_trainer(model_type, name)
    if special is Trainer:
        return HellmTrainer
    if not issubclass(special, Trainer) or special.fit is not Trainer.fit:
        raise ConfigError(
            f"Model '{name}' is trained by RecBole's {special.__name__}, whose own loop this "
            "package does not drive yet; choose another model."
        )
    return type(f"Hellm{special.__name__}", (RunTrainer, special, TrainingPass), {})


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean …?);`` for the known names close to `name`, else ``;``."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    if not close:
        return ";"
    return f" (did you mean {' or '.join(lowered[match] for match in close)}?);"


class UnknownOptionError(ConfigError):
    """A key that is no option of a model.

    Parameters
    ----------
    key, model : str
    known : iterable of str
        The options among which it may be meant.
    """

    def __init__(self, key: str, model: str, known: Iterable[str]) -> None:
        super().__init__(key, model, frozenset(known))
        self.key = key

    def __str__(self) -> str:
        key, model, known = self.args
        return (
            f"Unknown option '{key}' for model {model}{nearest(key, sorted(known))} options are "
            "listed in properties/ and README."
        )

    def beside(self, more: Iterable[str]) -> UnknownOptionError:
        """The same, where it may be one of `more` that is meant."""
        key, model, known = self.args
        return UnknownOptionError(key, model, {*known, *more})
