"""The configuration: RecBole's, with this package's defaults, strict keys and YAML values.

Priority, lowest first: RecBole's overall, dataset and model-type files; RecBole's model file; the
defaults that settings classes declare; this package's model and dataset files; for a variant, those
of its base and then its own; the user's files; the user's overrides.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.utils import ModelType

from recbole_hellm import registry
from recbole_hellm.compat import recbole_metrics
from recbole_hellm.config.devices import AUTO, choose_device
from recbole_hellm.config.history_checks import check_histories
from recbole_hellm.config.recbole_keys import PASSED_ON, RECBOLE_KEYS
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.settings import Facts, Settings, require
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.config.yaml_files import YamlLoader, as_paths, packaged, read_yaml, with_lists
from recbole_hellm.data.features.embedding_files import ItemTableFile
from recbole_hellm.data.features.item_inputs import ROLES, ItemInput, find_item_inputs
from recbole_hellm.errors import ConfigError, UnknownOptionError
from recbole_hellm.evaluation.metrics import check_valid_metric, validation_settings
from recbole_hellm.tracking.finding import check_trackers
from recbole_hellm.training.distributed import current

# RecBole's file for context-aware models is left out: it turns off negative sampling and predicts
# ratings, while this package ranks.
MODEL_TYPE_FILES = {
    ModelType.SEQUENTIAL: "quick_start_config/sequential.yaml",
    ModelType.KNOWLEDGE: "quick_start_config/knowledge_base.yaml",
}
LEAVE_ONE_OUT = {
    "split": {"LS": "valid_and_test"},
    "order": "TO",
    "group_by": "user",
    "mode": {"valid": "full", "test": "full"},
}
MASKINGS = ("seen", "train", "none")


def defaults(cls: type[Settings]) -> dict[str, Any]:
    """Defaults of a settings class, except those that RecBole's files set."""
    return {
        key: with_lists(declared.default)
        for key, declared in cls.declarations().items()
        if not declared.facts.recbole_default
    }


def declared_facts(key: str, *classes: type[Settings]) -> Facts:
    """The declared facts of a key, from settings classes or RecBole's keys."""
    shared: tuple[type[Settings], ...] = (RunSettings, TrainingSettings)
    for cls in (*shared, *classes):
        if key in cls.model_fields:
            return cls.declarations()[key].facts
    if key in RECBOLE_KEYS:
        return RECBOLE_KEYS[key].facts
    return Facts(passed_on=key in PASSED_ON)


class HellmConfig(Config):
    """RecBole's ``Config`` for this package's models, protocol and run directories.

    Parameters
    ----------
    model, dataset : str
        Names as on the command line.
    overrides : Mapping, optional
        Values with priority over every file. A key ``Model.key`` applies to the stage that trains
        ``Model``; see :meth:`for_stage`.
    config_files : iterable of path, optional
        YAML files of the user.

    Raises
    ------
    ConfigError
        If the model or a key is unknown, or a value does not fit the protocol.
    """

    def __init__(
        self,
        model: str,
        dataset: str,
        overrides: Mapping[str, Any] | None = None,
        config_files: Iterable[Path] = (),
    ) -> None:
        files = map(read_yaml, as_paths(config_files))
        user = {key: value for file in files for key, value in file.items()}
        user.update(with_lists(dict(overrides or {})))
        self.stage_overrides = {key: value for key, value in user.items() if "." in key}
        self.entry = registry.describe(model)
        self._outside_settings = registry.own_settings(self.entry)
        settings = {key: value for key, value in user.items() if "." not in key}
        super().__init__(model, dataset, config_dict=settings | self._addressed_to(self.entry.name))
        self.model_settings()
        self._check_token_limit()
        self.trainer_class()
        self.stages()

    @property
    def dataset_directory(self) -> Path:
        """The folder of the dataset's files."""
        return Path(self["data_path"]) / self.dataset

    def trainer_class(self) -> type:
        """The class that trains the model; raises :class:`ConfigError` if there is none."""
        return registry.trainer_class(self.entry)

    def identifying_settings(self) -> dict[str, Any]:
        """The settings that determine a run's result."""
        settings = self.final_config_dict | self.model_settings()
        for typed in self._typed():
            settings |= typed.recorded()
        replaced = {f"{role}_model" for role in self.imported}
        left_out, classes = self._untouched_additions() | replaced, self._settings_classes()
        return {
            key: value
            for key, value in settings.items()
            if key not in left_out and declared_facts(key, *classes).identifies
        }

    def model_settings(self) -> dict[str, Any]:
        """All settings of the model and its training, defaults included."""
        keys = registry.free_keys(self.entry)
        values = {key: self.final_config_dict[key] for key in keys if key in self.final_config_dict}
        for settings in self._typed(TrainingSettings):
            values.update(settings.to_dict())
        return values

    def _untouched_additions(self) -> set[str]:
        typed = self._typed(RunSettings, TrainingSettings)
        return set().union(*(settings.untouched_additions() for settings in typed))

    def _typed(self, *shared: type[Settings]) -> list[Settings]:
        return [cls.from_config(self) for cls in (*shared, *self._settings_classes())]

    def _settings_classes(self) -> tuple[type[Settings], ...]:
        return getattr(self.model_class, "settings_classes", ())

    def needs_features(self) -> bool:
        """Whether the model, an item input of it or a stage it stands on reads item features."""
        sources, stages = self.item_inputs.values(), self.stages().values()
        if not sources and not stages:
            return "modalities" in self.entry.inputs
        return any([s.needs_features for s in sources] + [s.needs_features() for s in stages])

    @functools.cached_property
    def item_inputs(self) -> dict[str, ItemInput]:
        """Item inputs of the LLM stage by name: the roles of its stages, and ``item_inputs``.

        Roles come first and in all cases, so that runs keep the stages that their ids name.
        """
        settings = self.final_config_dict | self.model_settings()
        if "item_inputs" not in settings:
            return {}
        roles = [name for name in ROLES if f"{name}_model" in settings]
        return find_item_inputs(dict.fromkeys([*roles, *settings["item_inputs"]]), settings)

    def stages(self) -> dict[str, HellmConfig]:
        """Configuration of each stage that the model stands on, by item input; of an ensemble's
        members by their names.

        The key ``<role>_model`` names another model for a role, or ``~`` to leave the stage out.
        ``<role>_embeddings`` names a file that replaces the stage.
        """
        sources = self.item_inputs.items()
        models = {name: (source.stage, None) for name, source in sources if source.stage}
        for settings in self._typed():
            models |= settings.members() if hasattr(settings, "members") else {}
        return {name: self.for_stage(*chosen) for name, chosen in models.items()}

    @functools.cached_property
    def imported(self) -> dict[str, ItemTableFile]:
        """Files that replace stages, by item input.

        Raises
        ------
        DataError
            If a file cannot be read.
        """
        files = {name: source.file for name, source in self.item_inputs.items()}
        return {name: file for name, file in files.items() if file is not None}

    def for_stage(self, model: str, seed: int | None = None) -> HellmConfig:
        """The configuration of a stage: shared keys plus ``Model.key`` overrides, and a seed."""
        shared = {
            key: value
            for key, value in self.external_config_dict.items()
            if declared_facts(key).passed_on
        }
        own = {} if seed is None else {"seed": seed}
        return HellmConfig(model, self.dataset, shared | own | self.stage_overrides)

    def _addressed_to(self, model: str) -> dict[str, Any]:
        """Overrides written ``model.key``, without the prefix."""
        split = ((key.partition("."), value) for key, value in self.stage_overrides.items())
        return {
            name: value for (owner, _, name), value in split if registry.class_name(owner) == model
        }

    # Overrides of RecBole's loading steps -------------------------------------------------------

    def compatibility_settings(self) -> None:
        """Answers configurator.py:620-635; `compat` sets the aliases at import."""

    def _build_yaml_loader(self) -> type:
        """Answers configurator.py:111: RecBole changes PyYAML's FullLoader for everyone."""
        return YamlLoader

    def _load_cmd_line(self) -> dict[str, Any]:
        """Answers configurator.py:161: the command line is parsed in `cli`, never here."""
        return {}

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        """Answers configurator.py:131: values are never passed through ``eval``."""
        return dict(config_dict)

    def _get_model_and_dataset(self, model: Any, dataset: Any) -> tuple[str, type, str]:
        return self.entry.name, self.entry.load(), dataset

    def _load_internal_config_dict(self, model: str, model_class: Any, dataset: str) -> None:
        base = self.entry.base
        root = Path(str(importlib.resources.files("recbole"))) / "properties"
        self.internal_config_dict: dict[str, Any] = {"MODEL_TYPE": model_class.type}
        names = ["overall.yaml", "dataset/sample.yaml", f"dataset/{dataset}.yaml"]
        names += [MODEL_TYPE_FILES.get(model_class.type, "")]
        names += [f"model/{name}.yaml" for name in registry.recbole_files(self.entry)]
        for name in names:
            if name and (root / name).is_file():
                self.internal_config_dict.update(read_yaml(root / name))
        dataset_file = packaged("dataset", f"{dataset}.yaml")
        per_model = dataset_file.pop("models", {})
        if self.entry.outside:  # its name may be that of another model
            per_model = {}
        model_file, variant = self._model_file(), registry.variant_settings(self.entry)
        by_backbone = {"tiny": {}, "pretrained": {}} | model_file.pop("by_backbone", {})
        typed = {
            key: value for cls in self._settings_classes() for key, value in defaults(cls).items()
        }
        backbone = (typed | model_file | variant | self.external_config_dict).get("backbone")
        for layer in (
            defaults(RunSettings),
            defaults(TrainingSettings),
            typed,
            model_file,
            by_backbone.get(str(backbone), by_backbone["pretrained"]),
            dataset_file,
            per_model.get(base, {}),
            # After all settings of the base: a variant differs from it in these on any dataset.
            variant,
            per_model.get(model, {}),
        ):
            self.internal_config_dict.update(layer)
        if self.entry.outside:
            self.internal_config_dict["model_path"] = self.entry.path
        self._check_keys(model_class)

    def _model_file(self) -> dict[str, Any]:
        """The model's settings file: this package's, or the one beside an outside model."""
        if not self.entry.outside:
            return packaged("model", f"{self.entry.base}.yaml")
        return dict(self._outside_settings)

    @property
    def _written_name(self) -> str:
        """What the command line calls the model."""
        return self.entry.path if self.entry.outside else self.model

    def _check_keys(self, model_class: Any) -> None:
        settings: tuple[type[Settings], ...] = (TrainingSettings, *self._settings_classes())
        known = set().union(*(cls.keys() for cls in settings))
        known.update(self.internal_config_dict, *self.parameters.values(), ("model", "dataset"))
        for key in (*self.external_config_dict, *self._outside_settings):
            if key in RECBOLE_KEYS and (reason := RECBOLE_KEYS[key].not_offered):
                raise ConfigError(f"RecBole's option '{key}' is not offered here: {reason}.")
        for key, value in self.external_config_dict.items():
            if key not in known:
                raise UnknownOptionError(key, self._written_name, known)
            self._check_kind(key, value)
            self._check_variant(key, value)

    def _check_kind(self, key: str, value: Any) -> None:
        """Refuse a value of another kind than a number or truth value in RecBole's files."""
        default = self.internal_config_dict.get(key)
        kinds = (bool,) if isinstance(default, bool) else (int, float)
        if isinstance(default, kinds) and (
            not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)
        ):
            expected = "True or False" if isinstance(default, bool) else "a number"
            raise ConfigError(f"{key}={value!r} must be {expected}, such as {default!r}.")
        # RecBole's own models take what RecBole takes, so that ids stay as they are.
        if self.entry.outside and type(default) is int and isinstance(value, float):
            raise ConfigError(f"{key}={value!r} must be a whole number, such as {default!r}.")

    def _check_variant(self, key: str, value: Any) -> None:
        """Refuse other values of the settings that a variant's name stands for."""
        if key in registry.variant_settings(self.entry):
            fixed, base = self.internal_config_dict[key], self.entry.base
            if (list(value) if isinstance(value, tuple) else value) != fixed:
                raise ConfigError(
                    f"{key}={value!r} is not {self.model}, which is {base} with {key}={fixed!r}; "
                    f"remove it, or set it for {base} alone (--{base}.{key})."
                )

    def _check_token_limit(self) -> None:
        limit = TrainingSettings.from_config(self).max_tokens
        if limit is not None and not hasattr(self.model_class, "sample_tokens"):
            names = [name for name, entry in registry.OWN_MODELS.items() if entry.kind == "LLM"]
            raise ConfigError(
                f"max_tokens={limit} applies to language models ({', '.join(names)}), not to "
                f"{self.model}; remove it, or set it for one model alone "
                f"(--{names[0]}.max_tokens={limit})."
            )

    def _set_default_parameters(self) -> None:
        final = self.final_config_dict
        for key, kind in (("metrics", str), ("topk", int)):
            if isinstance(final[key], kind):
                final[key] = [final[key]]
        check_trackers((runs := RunSettings.from_config(final)).trackers)
        final.update(runs.canonical())
        check_valid_metric(final["metrics"], final["topk"], final["valid_metric"])
        eval_args = (self._outside_settings | self.external_config_dict).get("eval_args") or {}
        pairs = eval_args if isinstance(eval_args, dict) else {"split": eval_args}
        for key, value in pairs.items():
            require(
                LEAVE_ONE_OUT.get(key) == value,
                f"eval_args.{key}={value!r} leaves this package's protocol; remove it, or use "
                "split and candidates (docs/protocol.md).",
            )
        final["eval_args"] = dict(LEAVE_ONE_OUT)
        check_histories(self.entry, final)
        final["repeatable"] = final["MODEL_TYPE"] == ModelType.SEQUENTIAL
        # A cross-entropy over all items needs no sampled negatives (configurator.py:336).
        if final.get("loss_type") == "CE" and final["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            final["train_neg_sample_args"] = None
        root = final["data_path"]
        with self._recbole_errors(), recbole_metrics(self):
            super()._set_default_parameters()
        final.update(validation_settings(final))
        # Answers configurator.py:331-338: RecBole appends the dataset's name, and redirects ml-100k
        # to its own example. `data_path` stays the user's.
        final["data_path"] = root

    def _set_train_neg_sample_args(self) -> None:
        with self._recbole_errors():
            super()._set_train_neg_sample_args()

    @contextlib.contextmanager
    def _recbole_errors(self) -> Iterator[None]:
        """Raise RecBole's errors about values as this package's."""
        try:
            yield
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"{str(error).rstrip('.')} (model {self.model}).") from error

    def _init_device(self) -> None:
        """Answers configurator.py:428-452, which overwrites ``CUDA_VISIBLE_DEVICES``."""
        final = self.final_config_dict
        device = choose_device(str(final["device"] or AUTO), gpu=final["use_gpu"])
        if device.index is not None and current().size > 1:
            raise ConfigError(
                f"device={device} would put all processes on one GPU; write --device=cuda."
            )
        final.update(device=device, single_spec=True, local_rank=0)


def check_addressed(configs: Iterable[HellmConfig]) -> None:
    """Refuse ``Model.key`` overrides for models that none of `configs` runs.

    Raises
    ------
    ConfigError
        If there is such an override; it would have no effect.
    """
    configs = list(configs)
    models = sorted({model for config in configs for model in _models(config)})
    for key in (key for config in configs for key in config.stage_overrides):
        owner = registry.class_name(key.partition(".")[0])
        if owner not in models:
            registry.describe(owner)  # raises with the nearest names if it is misspelt
            raise ConfigError(
                f"Option '{key}' is for a model that is not run here; {', '.join(models)} "
                f"{'is' if len(models) == 1 else 'are'}."
            )


def _models(config: HellmConfig) -> set[str]:
    """The model of a configuration, of its stages, and of their stages."""
    return {config.model}.union(*(_models(stage) for stage in config.stages().values()))
