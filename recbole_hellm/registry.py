"""The registry of models: their names, inputs and classes.

This package's models are declared here; other names are looked up in RecBole and among installed
models.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any, Literal

from recbole_hellm import compat, recbole_models
from recbole_hellm.config.yaml_files import packaged, read_yaml
from recbole_hellm.errors import ConfigError, nearest
from recbole_hellm.extensions import installed, is_import_path, load_object

GROUP = "recbole_hellm.models"
"""Entry points by which installed packages name their models."""
INPUTS = ("graph", "modalities", "histories")
# Sequential models that mask padding and count positions from the left: trimming a batch's padding
# does not change their results (`bucket_by_length`). A variant is treated as its base.
TRIMMABLE = ("GRU4Rec", "HeLLM", "SASRec")


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """One of this package's models, or a variant of one.

    A variant runs its base's class with the settings of ``properties/model/<variant>.yaml``, which
    holds only the settings that differ from the base's.

    Attributes
    ----------
    name : str
        The name on the command line; the class name except for variants.
    module : str
        The module that defines the class.
    paper : str
        Source of the method.
    inputs : tuple of str
        Any of ``graph``, ``modalities`` and ``histories``, including those of its stages.
    stages : dict of str to str
        Role -> default model of each stage, which is trained first. The configuration key
        ``<role>_model`` overrides the default.
    trainer : str, optional
        ``module:Class`` of the trainer; by default the trainer for its kind of model.
    kind : {"general", "sequential", "LLM"}
        Whether it scores users, histories, or histories by a language model.
    variant_of : str, optional
        The base model of a variant.
    extends : str, optional
        A variant whose settings this variant takes over.
    outside : bool
        Whether its class is in neither this package nor RecBole.
    """

    name: str
    module: str
    paper: str
    inputs: tuple[str, ...]
    stages: dict[str, str] = dataclasses.field(default_factory=dict)
    trainer: str | None = None
    kind: Literal["general", "sequential", "LLM"] = "general"
    variant_of: str | None = None
    extends: str | None = None
    outside: bool = False
    parent: str = ""

    @property
    def base(self) -> str:
        """The name of its class: the base's for a variant, else its own."""
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
_SEQUENTIAL = "recbole_hellm.models.sequential"
_GENERAL_MODELS = (
    ("VBPR", "vbpr", "He and McAuley, AAAI 2016", ("modalities",)),
    ("GRCN", "grcn", "Wei et al., MM 2020", ("graph", "modalities")),
    ("LATTICE", "lattice", "Zhang et al., MM 2021", ("graph", "modalities")),
    ("SLMRec", "slmrec", "Tao et al., TMM 2022", ("graph", "modalities")),
    ("BM3", "bm3", "Zhou et al., WWW 2023", ("graph", "modalities")),
    ("FREEDOM", "freedom", "Zhou and Shen, MM 2023", ("graph", "modalities")),
    ("HeLLMPre", "hellm_pre", "Guo et al., HeLLM, sections 3.2-3.4", ("graph", "modalities")),
)
_FILTERS = (
    ("BSARec", "bsarec", "Shin et al., AAAI 2024"),
    ("WEARec", "wearec", "Xu et al., AAAI 2026"),
)
_STAGED = "recbole_hellm.training.stages:StagedTrainer"
OWN_MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        *(
            ModelEntry(name, f"{_GENERAL}.{file}", paper, inputs)
            for name, file, paper, inputs in _GENERAL_MODELS
        ),
        *(
            ModelEntry(name, f"{_SEQUENTIAL}.{file}", paper, ("histories",), kind="sequential")
            for name, file, paper in _FILTERS
        ),
        ModelEntry(
            "HeLLM",
            f"{_SEQUENTIAL}.hellm",
            "Guo et al., HeLLM, section 3.5",
            ("graph", "modalities", "histories"),
            stages={"graph": "HeLLMPre", "sequence": "SASRec"},
            trainer=_STAGED,
            kind="LLM",
        ),
        ModelEntry(
            "Ensemble",
            f"{_SEQUENTIAL}.ensemble",
            "Klakow, ICSLP 1998",
            ("graph", "modalities", "histories"),
            stages={"llm": "HeLLM", "sequence": "SASRec", "graph": "HeLLMPre"},
            trainer="recbole_hellm.training.stages:EnsembleTrainer",
            kind="sequential",
        ),
    )
}


def _variant(name: str, base: str, paper: str, inputs: tuple[str, ...] | None = None) -> ModelEntry:
    entry = OWN_MODELS[base]
    return dataclasses.replace(
        entry, name=name, paper=paper, inputs=inputs or entry.inputs, variant_of=base
    )


def _extended(name: str, variant: ModelEntry) -> ModelEntry:
    return dataclasses.replace(variant, name=name, extends=variant.name)


_TABLE_3 = "Guo et al., HeLLM, Table 3"
_COLLM = _variant("CoLLM", "HeLLM", "Zhang et al., arXiv 2023", ("graph", "histories"))
_LLARA = _variant("LLaRA", "HeLLM", "Liao et al., SIGIR 2024", ("histories",))
OWN_MODELS.update(
    (entry.name, entry)
    for entry in (
        _COLLM,
        _extended("CoLLM-user", _COLLM),
        _LLARA,
        _extended("LLaRA-titles", _LLARA),
        _variant("HeLLMPre-wo-U2U", "HeLLMPre", _TABLE_3),
        _variant("HeLLMPre-wo-I2I", "HeLLMPre", _TABLE_3, ("graph",)),
        _variant("HeLLMPre-wo-CL", "HeLLMPre", _TABLE_3),
        _variant("HeLLM-wo-GNN_PEFT", "HeLLM", _TABLE_3),
        _variant("HeLLM-wo-GNN_ID", "HeLLM", _TABLE_3),
        _variant("HeLLM-wo-Seq_ID", "HeLLM", _TABLE_3),
        _variant("HeLLM-plus", "Ensemble", "this package"),
    )
)
# RecBole models of the paper's comparison, declared for listings and for a class that replaces
# RecBole's of the same name. They run like other RecBole models.
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
    """The entry of a model of this package, of RecBole, of an installed package or of the user.

    Parameters
    ----------
    model : str
        A name, or ``package.module:Class`` for a user's class.

    Raises
    ------
    ConfigError
        If the model is unknown.
    """
    entry = OWN_MODELS.get(model) or COMPARED_MODELS.get(model)
    if entry:
        return entry
    if is_import_path(model):
        return _outside(model)
    check_known(model)
    if model in recbole_models.modules():
        return ModelEntry(model, recbole_models.modules()[model], "", ())
    return _outside(installed(GROUP)[model])


def check_known(model: str) -> None:
    """Check that there is a model of that name; imports neither RecBole nor a model.

    Raises
    ------
    ConfigError
        If there is none, or it cannot run here. An import path is not checked.
    """
    names = [*OWN_MODELS, *COMPARED_MODELS, *recbole_models.modules(), *installed(GROUP)]
    if model not in names and not is_import_path(model):
        raise ConfigError(
            f"Unknown model '{model}'{nearest(model, names)} `recbole-hellm models` lists all of "
            "them; name your own class as my_package.my_module:MyModel."
        )
    recbole_models.check_runs(model)


def _outside(path: str) -> ModelEntry:
    """The entry of a class outside this package, with the facts from its attributes."""
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.utils import ModelType

    with compat.anomaly_mode_kept():
        cls = load_object(path, "model")
    module, _, name = path.partition(":")
    if not (isinstance(cls, type) and issubclass(cls, AbstractRecommender)):
        raise ConfigError(
            f"{path} is not a RecBole model; derive it from one, such as "
            "recbole.model.abstract_recommender.GeneralRecommender."
        )
    parent = _parent(cls)
    inputs = getattr(cls, "inputs", parent.inputs if parent else ())
    if not set(inputs) <= {*INPUTS}:
        raise ConfigError(f"{path}.inputs={inputs!r} must be some of {', '.join(INPUTS)}.")
    sequential = getattr(cls, "type", None) == ModelType.SEQUENTIAL
    return ModelEntry(
        name,
        module,
        inspect.cleandoc(cls.__doc__ or "").partition("\n")[0],
        tuple(inputs),
        dict(parent.stages) if parent else {},
        getattr(cls, "trainer", parent.trainer if parent else None),
        kind=parent.kind if parent else ("sequential" if sequential else "general"),
        outside=True,
        parent=parent.name if parent else "",
    )


def _parent(cls: type) -> ModelEntry | None:
    """The nearest model of this package that a class derives from."""
    known = {
        (entry.module, entry.name): entry
        for entry in (*OWN_MODELS.values(), *COMPARED_MODELS.values())
        if entry.variant_of is None and entry.module.startswith("recbole_hellm.")
    }
    classes = ((base.__module__, base.__name__) for base in cls.__mro__)
    return next((known[names] for names in classes if names in known), None)


def class_name(model: str) -> str:
    """The name of a model in tables, files and ``--NAME.key``: of ``module:Class`` the class."""
    if not is_import_path(model):
        model = model if model in OWN_MODELS else installed(GROUP).get(model, model)
    return model.rpartition(":")[2]


def base_model(name: str) -> str:
    """The base of the variant `name`; `name` itself for other models."""
    entry = OWN_MODELS.get(name)
    return entry.base if entry else name


def variant_settings(entry: ModelEntry) -> dict[str, Any]:
    """The settings in which a variant differs from its base; empty for other models."""
    settings: dict[str, Any] = {}
    for name in (entry.extends, entry.name) if entry.variant_of else ():
        settings |= packaged("model", f"{name}.yaml") if name else {}
    return settings


def recbole_model_keys(name: str) -> list[str]:
    """Keys of RecBole's settings file for a model; empty if it has none."""
    path = recbole_models.folder() / "properties" / "model" / f"{name}.yaml"
    return list(read_yaml(path)) if path.is_file() else []


def recbole_files(entry: ModelEntry) -> list[str]:
    """Names of the RecBole models whose settings files hold for a model, farthest parent first.

    A class outside this package has those of the RecBole models it derives from.
    """
    if not entry.outside:
        return [entry.base]
    return [cls.__name__ for cls in _recbole_classes(entry.load())]


def _recbole_classes(cls: type) -> list[type]:
    """The RecBole models among a class and those it derives from, farthest first."""
    folders = tuple(f"recbole.model.{family}." for family in recbole_models.FAMILIES)
    return [base for base in reversed(cls.__mro__) if base.__module__.startswith(folders)]


def _known_name(entry: ModelEntry) -> str:
    """The name of a model's class; of an outside class, of the nearest model it derives from."""
    return entry.parent or (recbole_files(entry) or ["_"])[-1]


def model_class(model: str) -> Any:
    """The class of a model, see :func:`describe`; for a variant its base's class."""
    return describe(model).load()


def own_settings(entry: ModelEntry) -> dict[str, Any]:
    """Settings of an outside model: its parent's here, and those of ``<Class>.yaml`` beside it."""
    if not entry.outside:
        return {}
    file = Path(inspect.getfile(entry.load())).with_name(f"{entry.name}.yaml")
    parents = packaged("model", f"{entry.parent}.yaml") if entry.parent else {}
    return parents | (read_yaml(file) if file.is_file() else {})


def free_keys(entry: ModelEntry) -> list[str]:
    """Keys of a model that no settings class declares: of RecBole's files and its own."""
    recboles = [key for name in recbole_files(entry) for key in recbole_model_keys(name)]
    keys = dict.fromkeys([*recboles, *own_settings(entry)])
    return [key for key in keys if key != "by_backbone"]


def trimmable(entry: ModelEntry) -> bool:
    """Whether cutting off the padding of histories changes nothing, see :data:`TRIMMABLE`."""
    return _known_name(entry) in TRIMMABLE


def is_recbole(cls: type) -> bool:
    """Whether `cls` is a RecBole model or derived from one."""
    return bool(_recbole_classes(cls))


def trainer_class(entry: ModelEntry) -> type:
    """The trainer of a model.

    RecBole's special trainers are combined with this package's, so evaluation, checkpoints and
    resuming are the same for every model.

    Raises
    ------
    ConfigError
        If the model cannot run here: RecBole's trainer of it has its own loop, for example.
    """
    recbole_models.check_runs(_known_name(entry))
    from recbole.trainer import Trainer
    from recbole.utils import get_trainer

    if entry.trainer is not None:
        return load_object(entry.trainer, "trainer")
    from recbole_hellm.training.epoch import TrainingPass
    from recbole_hellm.training.trainer import HellmTrainer, RunTrainer

    special = get_trainer(entry.load().type, _known_name(entry))
    if special is Trainer:
        return HellmTrainer
    if not issubclass(special, Trainer) or special.fit is not Trainer.fit:
        raise ConfigError(
            f"Model '{entry.name}' is trained by RecBole's {special.__name__}, whose own loop this "
            "package does not drive yet; choose another model."
        )
    return type(f"Hellm{special.__name__}", (RunTrainer, special, TrainingPass), {})
