"""The configuration: RecBole's, with this package's defaults, strict keys and YAML values.

Priority, lowest first: RecBole's overall, dataset and model-type files; RecBole's model file; this
package's overall, model and dataset files; for a variant, those of its base and then its own; the
user's files; the user's overrides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.resources
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from recbole.config import Config
from recbole.utils import ModelType, dataset_arguments

from recbole_hellm import registry
from recbole_hellm.compat import recbole_metrics
from recbole_hellm.config.settings import Settings, hash_neutral, require
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.config.yaml_files import YamlLoader, packaged, read_yaml
from recbole_hellm.data.features.embedding_files import ItemTableFile
from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation.metrics import check_valid_metric, validation_settings

# RecBole's file for context-aware models is left out: it turns negative sampling off and scores
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
# Of the overall keys, those that a stage shares with the model that stands on it.
PASSED_ON = (
    *dataset_arguments,
    "data_path",
    "raw_dir",
    "mirrors",
    "features",
    "text_encoder",
    "mask_history",
    "metrics",
    "topk",
    "valid_metric",
    "eval_users",
    "seed",
    "reproducibility",
    "runs_dir",
    "resume",
    "save_topk",
    "projector",
    "use_gpu",
    "threads",
    "show_progress",
)
# RecBole's options that change nothing here, or would change what must not change, and why.
NOT_OFFERED = {
    "benchmark_filename": "the split is always leave-one-out",
    "checkpoint_dir": "use runs_dir",
    "enable_amp": "a pre-trained backbone runs in bfloat16 on a GPU by itself",
    "enable_scaler": "a pre-trained backbone runs in bfloat16 on a GPU by itself",
    "eval_batch_size": "use eval_users",
    "gpu_id": "set the environment variable CUDA_VISIBLE_DEVICES",
    "log_wandb": "TensorBoard events lie in the run directory",
    "repeatable": "use mask_history",
    "save_dataloaders": "the split follows from the data alone",
    "save_dataset": "the split follows from the data alone",
    "valid_metric_bigger": "it follows from valid_metric",
    "worker": "batches are made in one process, so that a run can be repeated",
}


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
    """The keys of ``overall.yaml`` that are not about optimisation; what they mean stands there."""

    data_path: str = "dataset"
    raw_dir: str | None = None
    mirrors: str | tuple[str, ...] | None = hash_neutral(None)
    load_col: dict | None = None
    unload_col: dict | None = None
    features: tuple[str, ...] | None = None
    text_encoder: str = "auto"
    MAX_ITEM_LIST_LENGTH: int = 50
    mask_history: Literal["seen", "train", "none"] = "seen"
    metrics: tuple[str, ...] = ("Recall", "NDCG")
    topk: tuple[int, ...] = (10, 20)
    valid_metric: str = "NDCG@10"
    eval_users: int = 256
    seed: int = 2024
    reproducibility: bool = True
    train_batch_size: int = 2048
    bucket_by_length: bool = False
    runs_dir: str = "runs"
    resume: bool = False
    force: bool = False
    save_topk: int = 0
    projector: bool = hash_neutral(True)
    use_gpu: bool = True
    threads: int | None = None
    show_progress: bool = True

    def validate(self) -> None:
        """Check ranges.

        Raises
        ------
        ConfigError
            If a value is out of range, a metric is unknown, or ``valid_metric`` is not among them.
        """
        for key in ("MAX_ITEM_LIST_LENGTH", "eval_users", "train_batch_size", "threads"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"{key}={value} must be at least 1.")
        require(0 <= self.seed < 2**32, f"seed={self.seed} must lie between 0 and 2^32 - 1.")
        require(self.save_topk >= 0, f"save_topk={self.save_topk} must not be negative.")
        require(
            bool(self.topk) and min(self.topk) >= 1,
            f"topk={list(self.topk)} must be one or more positive numbers.",
        )
        check_valid_metric(self.metrics, self.topk, self.valid_metric)


def variant_settings(model: str) -> dict[str, Any]:
    """The settings in which a variant differs from its base; empty for any other model."""
    return packaged("model", f"{model}.yaml") if registry.base_model(model) != model else {}


class HellmConfig(Config):
    """RecBole's ``Config`` for this package's models, protocol and run directories.

    Parameters
    ----------
    model, dataset : str
        Names as on the command line.
    overrides : Mapping, optional
        Values that win over every file. Keys of the form ``Model.key`` are meant for the stage that
        trains ``Model`` and are kept for :meth:`for_stage`.
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
        given = {key: value for path in config_files for key, value in read_yaml(path).items()}
        given.update(overrides or {})
        self.stage_overrides = {key: value for key, value in given.items() if "." in key}
        own = {key: value for key, value in given.items() if "." not in key}
        own.update(self._addressed_to(model))
        super().__init__(model=model, dataset=dataset, config_dict=own)
        self.model_settings()
        self._check_token_limit()
        registry.trainer_class(model, self.final_config_dict["MODEL_TYPE"])
        self.stages()

    def model_settings(self) -> dict[str, Any]:
        """All values that make the model and its training what they are, defaults included."""
        keys = registry.recbole_model_keys(registry.base_model(self.model))
        values = {key: self.final_config_dict[key] for key in keys if key in self.final_config_dict}
        for settings in self._typed(TrainingSettings):
            values.update(settings.to_dict())
        return values

    def untouched_additions(self) -> set[str]:
        """Keys that a run's id leaves out; see :func:`recbole_hellm.config.settings.added`."""
        typed = self._typed(RunSettings, TrainingSettings)
        return set().union(*(settings.untouched_additions() for settings in typed))

    def _typed(self, *shared: type[Settings]) -> list[Settings]:
        classes = (*shared, *getattr(self.model_class, "settings_classes", ()))
        return [cls.from_config(self) for cls in classes]

    def needs_features(self) -> bool:
        """Whether the model, or a stage it stands on, reads item features."""
        entry = registry.OWN_MODELS.get(self.model)
        if entry is None or not entry.stages:
            return entry is not None and "modalities" in entry.inputs
        return any(stage.needs_features() for stage in self.stages().values())

    def stages(self) -> dict[str, HellmConfig]:
        """Configuration of each stage that the model stands on, by role.

        The key ``<role>_model`` names another model for a role, or none (``~``) to leave it out;
        ``<role>_embeddings`` names a file that takes the stage's place.
        """
        final = self.final_config_dict
        needed = {
            role: final.get(f"{role}_model", default)
            for role, default in self._roles().items()
            if not final.get(f"{role}_embeddings")
        }
        return {role: self.for_stage(model) for role, model in needed.items() if model}

    @functools.cached_property
    def imported(self) -> dict[str, ItemTableFile]:
        """Files that take the place of stages, by role.

        Raises
        ------
        DataError
            If one cannot be read.
        """
        keys = {role: f"{role}_embeddings" for role in self._roles()}
        given = {role: (key, self.final_config_dict.get(key)) for role, key in keys.items()}
        return {role: ItemTableFile.find(key, path) for role, (key, path) in given.items() if path}

    def _roles(self) -> dict[str, str]:
        """Role -> default model of each stage that the model may stand on."""
        entry = registry.OWN_MODELS.get(self.model)
        return entry.stages if entry else {}

    def for_stage(self, model: str) -> HellmConfig:
        """The configuration of a stage: shared keys pass on, ``Model.key`` overrides apply."""
        passed = {
            key: value for key, value in self.external_config_dict.items() if key in PASSED_ON
        }
        return HellmConfig(model, self.dataset, passed | self._addressed_to(model))

    def _addressed_to(self, model: str) -> dict[str, Any]:
        """Overrides written ``model.key``, without the prefix."""
        split = ((key.partition("."), value) for key, value in self.stage_overrides.items())
        return {name: value for (owner, _, name), value in split if owner == model}

    # Named overrides of RecBole's loading steps -------------------------------------------------

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
        return model, registry.model_class(model), dataset

    def _load_internal_config_dict(self, model: str, model_class: Any, dataset: str) -> None:
        base = registry.base_model(model)
        root = Path(str(importlib.resources.files("recbole"))) / "properties"
        self.internal_config_dict: dict[str, Any] = {"MODEL_TYPE": model_class.type}
        names = ["overall.yaml", "dataset/sample.yaml", f"dataset/{dataset}.yaml"]
        names += [MODEL_TYPE_FILES.get(model_class.type, ""), f"model/{base}.yaml"]
        for name in names:
            if name and (root / name).is_file():
                self.internal_config_dict.update(read_yaml(root / name))
        own_dataset = packaged("dataset", f"{dataset}.yaml")
        per_model = own_dataset.pop("models", {})
        own_model, variant = packaged("model", f"{base}.yaml"), variant_settings(model)
        by_backbone = own_model.pop("by_backbone", {})
        backbone = (own_model | variant | self.external_config_dict).get("backbone")
        for layer in (
            packaged("overall.yaml"),
            own_model,
            by_backbone.get("tiny" if backbone == "tiny" else "pretrained", {}),
            own_dataset,
            per_model.get(base, {}),
            # After all that is said of the base, which a variant is on any dataset but for this.
            variant,
            per_model.get(model, {}),
        ):
            self.internal_config_dict.update(layer)
        self._check_keys(model_class)

    def _check_keys(self, model_class: Any) -> None:
        settings = (TrainingSettings, *getattr(model_class, "settings_classes", ()))
        known = set().union(*(cls.keys() for cls in settings))
        known.update(self.internal_config_dict, *self.parameters.values(), ("model", "dataset"))
        for key, value in self.external_config_dict.items():
            if key not in known:
                raise registry.UnknownOptionError(key, self.model, known)
            if key in NOT_OFFERED:
                raise ConfigError(
                    f"RecBole's option '{key}' is not offered here: {NOT_OFFERED[key]}."
                )
            self._check_kind(key, value)
            self._check_variant(key, value)
        for key in self.stage_overrides:
            registry.model_class(key.partition(".")[0])

    def _check_kind(self, key: str, value: Any) -> None:
        """A number or a truth value in RecBole's files must stay one; typed settings say more."""
        default = self.internal_config_dict.get(key)
        kinds = (bool,) if isinstance(default, bool) else (int, float)
        if isinstance(default, kinds) and (
            not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)
        ):
            wanted = "True or False" if isinstance(default, bool) else "a number"
            raise ConfigError(f"{key}={value!r} must be {wanted}, such as {default!r}.")

    def _check_variant(self, key: str, value: Any) -> None:
        """A variant's name stands for its settings, so that a table shows what its rows say."""
        if key in variant_settings(self.model):
            own, base = self.internal_config_dict[key], registry.base_model(self.model)
            if (list(value) if isinstance(value, tuple) else value) != own:
                raise ConfigError(
                    f"{key}={value!r} is not {self.model}, which is {base} with {key}={own!r}; "
                    f"remove it, or set it for {base} alone (--{base}.{key})."
                )

    def _check_token_limit(self) -> None:
        limit = TrainingSettings.from_config(self).max_tokens
        if limit is not None and not hasattr(self.model_class, "sample_tokens"):
            names = [name for name, entry in registry.OWN_MODELS.items() if entry.kind == "LLM"]
            raise ConfigError(
                f"max_tokens={limit} is for language models ({', '.join(names)}) and {self.model} "
                f"is none; remove it, or set it for one alone (--{names[0]}.max_tokens={limit})."
            )

    def _set_default_parameters(self) -> None:
        final = self.final_config_dict
        for key, kind in (("metrics", str), ("topk", int)):
            if isinstance(final[key], kind):
                final[key] = [final[key]]
        RunSettings.from_config(final)
        given = self.external_config_dict.get("eval_args") or {}
        for key, value in given.items() if isinstance(given, dict) else [("split", given)]:
            if LEAVE_ONE_OUT.get(key) != value:
                raise ConfigError(
                    f"eval_args.{key}={value!r} leaves this package's one protocol (leave-one-out, "
                    "full ranking); remove it to keep results comparable."
                )
        final["eval_args"] = dict(LEAVE_ONE_OUT)
        if final["bucket_by_length"] and registry.base_model(self.model) not in registry.TRIMMABLE:
            raise ConfigError(
                f"bucket_by_length=True would change what {self.model} computes; it is exact for "
                f"{', '.join(registry.TRIMMABLE)} only."
            )
        final["repeatable"] = final["MODEL_TYPE"] == ModelType.SEQUENTIAL
        # A cross-entropy over all items needs no sampled negatives (configurator.py:336).
        if final.get("loss_type") == "CE" and final["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            final["train_neg_sample_args"] = None
        root = final["data_path"]
        with self._mistakes(), recbole_metrics(self):
            super()._set_default_parameters()
        final.update(validation_settings(final))
        # RecBole points ml-100k at its own example (configurator.py:316).
        final["data_path"] = str(Path(root) / self.dataset)

    def _set_train_neg_sample_args(self) -> None:
        with self._mistakes():
            super()._set_train_neg_sample_args()

    @contextlib.contextmanager
    def _mistakes(self) -> Iterator[None]:
        """RecBole's complaints about values, as this package's."""
        try:
            yield
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"{str(error).rstrip('.')} (model {self.model}).") from error

    def _init_device(self) -> None:
        """Answers configurator.py:428-452, which overwrites ``CUDA_VISIBLE_DEVICES``."""
        use_gpu = self.final_config_dict["use_gpu"] and torch.cuda.is_available()
        self.final_config_dict.update(
            device=torch.device("cuda" if use_gpu else "cpu"), single_spec=True, local_rank=0
        )


def check_addressed(configs: Iterable[HellmConfig]) -> None:
    """Refuse overrides ``Model.key`` for models that none of `configs` runs.

    Raises
    ------
    ConfigError
        If there is one, since it would change nothing.
    """
    configs = list(configs)
    stages = [stage for config in configs for stage in config.stages().values()]
    models = sorted({config.model for config in (*configs, *stages)})
    for key in (key for config in configs for key in config.stage_overrides):
        if key.partition(".")[0] not in models:
            raise ConfigError(
                f"Option '{key}' is for a model that is not run here; {', '.join(models)} "
                f"{'is' if len(models) == 1 else 'are'}."
            )
