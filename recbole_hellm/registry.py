"""Which models exist, what they need, and where their classes live.

This package's own models are declared here; every other name is looked up among RecBole's.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.resources
import importlib.util
import inspect
from pathlib import Path
from typing import Any, Literal

from recbole_hellm import compat
from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.errors import ConfigError, nearest
from recbole_hellm.extensions import installed, is_import_path, load_object

GROUP = "recbole_hellm.models"
"""Entry points by which installed packages name their models."""
INPUTS = ("graph", "modalities", "histories")
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
    trainer : str, optional
        ``module:Class`` of the trainer; by default the one for its kind of model.
    kind : {"general", "sequential", "LLM"}
        What it scores items for: users, histories, or histories through a language model.
    variant_of : str, optional
        The model that this one is a variant of.
    outside : bool
        Whether it belongs neither to this package nor to RecBole.
    """

    name: str
    module: str
    paper: str
    inputs: tuple[str, ...]
    stages: dict[str, str] = dataclasses.field(default_factory=dict)
    trainer: str | None = None
    kind: Literal["general", "sequential", "LLM"] = "general"
    variant_of: str | None = None
    outside: bool = False

    @property
    def base(self) -> str:
        """The name of its class: its own, or that of the model it is a variant of."""
        return self.variant_of or self.name

    @property
    def path(self) -> str:
        """Import path of its class."""
        return f"{self.module}:{self.base}"

    def load(self) -> Any:
        """Its class."""
        with compat.anomaly_mode_kept():
            return load_object(self.path, "model")


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


def describe(model: str) -> ModelEntry:
    """What is known of a model: this package's own, RecBole's, an installed or the user's own.

    Parameters
    ----------
    model : str
        A name; or, for a class of the user's own, ``package.module:Class``.

    Raises
    ------
    ConfigError
        If there is no such model.
    """
    known = OWN_MODELS.get(model) or COMPARED_MODELS.get(model)
    if known:
        return known
    path = model if is_import_path(model) else installed(GROUP).get(model)
    if path is not None:
        return _outside(path)
    found = _recbole_module(model)
    if found:
        return ModelEntry(model, found, "", ())
    names = [*OWN_MODELS, *recbole_model_names(), *installed(GROUP)]
    raise ConfigError(
        f"Unknown model '{model}'{nearest(model, names)} `recbole-hellm models` lists all of them; "
        "one of your own is named my_package.my_module:MyModel."
    )


def _outside(path: str) -> ModelEntry:
    """The entry of a class outside this package; the class's own attributes add to it."""
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.utils import ModelType

    with compat.anomaly_mode_kept():
        cls = load_object(path, "model")
    module, _, name = path.partition(":")
    if not (isinstance(cls, type) and issubclass(cls, AbstractRecommender)):
        raise ConfigError(
            f"{path} is no RecBole model; derive it from one, such as "
            "recbole.model.abstract_recommender.GeneralRecommender."
        )
    inputs = getattr(cls, "inputs", ())
    if not set(inputs) <= {*INPUTS}:
        raise ConfigError(f"{path}.inputs={inputs!r} must be some of {', '.join(INPUTS)}.")
    return ModelEntry(
        name,
        module,
        inspect.cleandoc(cls.__doc__ or "").partition("\n")[0],
        tuple(inputs),
        dict(getattr(cls, "stages", {})),
        getattr(cls, "trainer", None),
        kind="sequential" if getattr(cls, "type", None) == ModelType.SEQUENTIAL else "general",
        outside=True,
    )


def _recbole_module(name: str) -> str | None:
    """The module of RecBole's model of that name, if there is one."""
    for family in RECBOLE_FAMILIES if name.isidentifier() else ():
        module_name = f"recbole.model.{family}.{name.lower()}"
        with compat.anomaly_mode_kept():
            there = importlib.util.find_spec(module_name)
            module = importlib.import_module(module_name) if there else None
        if isinstance(getattr(module, name, None), type):
            return module_name
    return None


def base_model(name: str) -> str:
    """The model that `name` is a variant of; `name` itself where it is none."""
    entry = OWN_MODELS.get(name)
    return entry.base if entry else name


def recbole_models() -> dict[str, list[str]]:
    """Names of all models that RecBole itself offers, by family."""
    found = {}
    for family in RECBOLE_FAMILIES:
        with compat.anomaly_mode_kept():
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


def model_class(model: str) -> Any:
    """The class of a model, see :func:`describe`; a variant's is its base's."""
    return describe(model).load()


def own_settings_file(entry: ModelEntry) -> Path | None:
    """``<Class>.yaml`` beside the module of a model outside this package, if there is one."""
    if not entry.outside:
        return None
    file = Path(inspect.getfile(entry.load())).with_name(f"{entry.name}.yaml")
    return file if file.is_file() else None


def is_recbole(cls: type) -> bool:
    """Whether `cls` is one of RecBole's models or built on one."""
    return any(
        base.__module__.startswith(f"recbole.model.{family}")
        for base in cls.__mro__
        for family in RECBOLE_FAMILIES
    )


def trainer_class(entry: ModelEntry) -> type:
    """The trainer of a model.

    RecBole's own special trainers are combined with this package's, so that evaluation, checkpoints
    and resuming are the same for every model.

    Raises
    ------
    ConfigError
        If RecBole trains the model with a loop of its own that cannot be combined.
    """
    from recbole.trainer import Trainer
    from recbole.utils import get_trainer

    if entry.trainer is not None:
        return load_object(entry.trainer, "trainer")
    from recbole_hellm.training.epoch import TrainingPass
    from recbole_hellm.training.trainer import HellmTrainer, RunTrainer

    special = get_trainer(entry.load().type, entry.name)
    if special is Trainer:
        return HellmTrainer
    if not issubclass(special, Trainer) or special.fit is not Trainer.fit:
        raise ConfigError(
            f"Model '{entry.name}' is trained by RecBole's {special.__name__}, whose own loop this "
            "package does not drive yet; choose another model."
        )
    return type(f"Hellm{special.__name__}", (RunTrainer, special, TrainingPass), {})
