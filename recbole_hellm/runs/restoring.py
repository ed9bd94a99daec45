"""Restoring a finished run: rebuild its configuration, check its dataset, load its model.

``config.yaml`` and ``identity.json`` hold the final value of every setting, so a run is restored as
it was trained even if a default has changed. The settings of stages are not needed: the run's own
files hold what it took from its stages.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.utils import init_seed

from recbole_hellm import registry
from recbole_hellm.config.devices import AUTO
from recbole_hellm.config.resolution import HellmConfig, declared_facts
from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.data.preparation.versions import version_directories
from recbole_hellm.errors import (
    ConfigError,
    DataError,
    FeatureError,
    HellmError,
    RunError,
    reason,
)
from recbole_hellm.evaluation.evaluator import Evaluator
from recbole_hellm.models.sequential.ensemble import Ensemble
from recbole_hellm.runs.directory import ARTEFACTS, Identity, RunDirectory
from recbole_hellm.runs.opening import build_model, open_dataset, open_splits
from recbole_hellm.runs.rankings import lists_file, maskings, write_lists
from recbole_hellm.training.model_state import load_weights

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ReopenedRun:
    """The parts of a run in their state at the scoring of the test split.

    Attributes
    ----------
    config : HellmConfig
    dataset : Dataset
        All interactions; maps between tokens and the model's ids.
    model : AbstractRecommender
        In evaluation mode.
    evaluator : Evaluator
    """

    config: HellmConfig
    dataset: Any
    model: Any
    evaluator: Evaluator

    def evaluate(
        self, phase: str = "test", show_progress: bool = False
    ) -> dict[str, dict[str, float]]:
        """Score ``valid`` or ``test``: masking -> metric -> value, as in ``metrics.json``."""
        if phase not in self.evaluator.inputs:
            raise ConfigError(f"phase={phase!r} is not allowed; use one of valid, test.")
        names = maskings(self.config)
        return self.evaluator.evaluate(self.model, phase, names, show_progress).metrics


def reopen(
    directory: RunDirectory,
    data_path: str | Path | None = None,
    backbone: str | None = None,
    save_topk: int | None = None,
    device: str = AUTO,
) -> ReopenedRun:
    """Restore a finished run; see :meth:`RunResult.restore`.

    Its evaluator saves lists of `save_topk` items, by default the run's own number.
    """
    record = directory.record()
    if "recipe" in record:
        raise RunError(
            f"{directory.path} is a record, which holds no model; name the run itself, a folder in "
            "runs_dir."
        )
    identity = directory.identity()
    config = _configuration(
        directory, record, identity, data_path, {"save_topk": save_topk, "device": device}
    )
    is_llm = config.entry.kind == "LLM"
    # Artefacts hold the stages' embeddings, so features are not needed.
    features = not is_llm and config.needs_features()
    _check_place(config, directory.path)
    dataset = _own_dataset(config, identity, features, directory.path)
    init_seed(config["seed"], config["reproducibility"])
    splits, evaluator = open_splits(config, dataset)
    if is_llm:
        _check_backbone(config, identity, directory, backbone)
        model = _fine_tuned(config, dataset, splits[0], directory, backbone)
    else:
        model = build_model(config, splits[0])
        load_best(model, directory, config["device"])
        stages = {name: directory.path / path for name, path in record["stages"].items()}
        load_members(model, stages, config["data_path"], config["device"], backbone)
    return ReopenedRun(config, dataset, model.eval(), evaluator)


def load_members(
    model: Any,
    members: Mapping[str, str | Path],
    data_path: str | Path,
    device: Any,
    backbone: str | None = None,
) -> None:
    """Restore the members of an ensemble; does nothing for any other model.

    Parameters
    ----------
    model : AbstractRecommender
    members : Mapping of str to path
        Directories of finished runs by the members' names.
    data_path, device
        As of :func:`reopen`.
    backbone : str, optional
        New location of the language model's backbone.

    Raises
    ------
    RunError
        If a member cannot be restored.
    """
    if not isinstance(model, Ensemble):
        return
    for name, path in members.items():
        member = reopen(RunDirectory(Path(path)), data_path, backbone, device=str(device))
        model.load_member(name, functools.partial(member.evaluator.score, member.model))


def add_lists(
    directory: RunDirectory, length: int, data_path: str | Path, show_progress: bool = False
) -> None:
    """Write the recommended lists of a finished run that has none or shorter ones.

    The run may have been trained as a stage of another one. Its metrics and ranks do not change.

    Parameters
    ----------
    directory : RunDirectory
    length : int
        Items per user, ``save_topk``.
    data_path : path
        The folder that holds the run's dataset.
    show_progress : bool

    Raises
    ------
    RunError
        If the model cannot be restored; see :meth:`RunResult.restore`.
    ConfigError
        If the dataset has fewer items.
    """
    masking = directory.record()["masking"]
    name = lists_file(masking)

    def there() -> bool:
        held = directory.file(name).is_file() and directory.holds(name)
        return held and bool(directory.read_table(name, ["place"])["place"].max() >= length)

    if there():
        return
    logger.info("%s has no lists of %d items; writing them now.", directory.path, length)
    with directory.locked(wait=True):
        if there():  # by the process that was waited for
            return
        restored = reopen(directory, data_path, save_topk=length)
        test = restored.evaluator.evaluate(restored.model, "test", (masking,), show_progress)
        with directory.adding(name):
            write_lists(restored.dataset, directory, test)


def load_best(model: Any, directory: RunDirectory, device: Any) -> None:
    """Load the weights of the best validation epoch.

    Raises
    ------
    RunError
        If the checkpoint is missing, damaged, or belongs to another model.
    """
    path = directory.verified(directory.best_checkpoint.name)
    try:
        load_weights(model, directory.load_checkpoint(path, device, check=False))
    except (KeyError, RuntimeError, TypeError) as error:
        raise RunError(
            f"{path} does not hold the weights of this model ({reason(error)}); "
            f"{directory.way_out}."
        ) from error


def _check_backbone(
    config: HellmConfig, identity: Identity, directory: RunDirectory, backbone: str | None
) -> None:
    """Check the files of a frozen backbone; those of a trained one are the run's own.

    Unless another place is given, a GGUF file is found by its checksum when the model is loaded.
    """
    from recbole_hellm.models.llm.backbone_content import backbone_content
    from recbole_hellm.models.llm.gguf import cached_folder, find_gguf
    from recbole_hellm.models.llm.settings import LLMSettings

    then, settings = identity.get("backbone"), LLMSettings.from_config(config).resolved()
    if then is None or settings.train_backbone:
        return
    if find_gguf(settings.backbone) is not None:
        cached = None if backbone is None else cached_folder(then)
        if backbone is None or (cached and Path(backbone).absolute() == cached.absolute()):
            return
    settings = settings.replace(backbone=backbone or settings.backbone)
    if backbone_content(settings).get("backbone", then) != then:
        raise RunError(
            f"backbone={settings.backbone} holds other weights than the backbone that "
            f"{directory.path} was trained on; give that one's folder or file as `backbone`."
        )


def _fine_tuned(
    config: HellmConfig, dataset: Any, split: Any, directory: RunDirectory, backbone: str | None
) -> Any:
    from recbole_hellm.models.llm.artefacts import load_artefacts

    folder = directory.verified_folder(ARTEFACTS)
    if not folder.is_dir():
        raise RunError(
            f"{directory.path} has no folder '{folder.name}', which runs of this version write; "
            "train it again with --force."
        )
    network = load_artefacts(
        folder,
        item_tokens=list(dataset.item_tokens),
        user_tokens=list(dataset.user_tokens),
        backbone=backbone,
        device=config["device"],
    )
    return build_model(config, split, network=network)


def _configuration(
    directory: RunDirectory,
    record: Mapping[str, Any],
    identity: Identity,
    data_path: str | Path | None,
    changes: Mapping[str, Any],
) -> HellmConfig:
    """The recorded configuration of a run.

    Raises
    ------
    RunError
        If it was recorded by a version with other settings.
    """
    path = directory.verified("config.yaml")
    try:
        recorded = read_yaml(path) | identity["settings"]
        data_folder = _recorded_data_path(recorded) if data_path is None else Path(data_path)
    except (ConfigError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} or identity.json beside it is missing or damaged; run it again."
        ) from error
    model = recorded.pop("model_path", record["model"])
    overrides = {key: value for key, value in recorded.items() if declared_facts(key).restored}
    overrides |= {key: value for key, value in changes.items() if value is not None}
    # RecBole writes "none" for no negatives, but does not read it.
    if (overrides.get("train_neg_sample_args") or {}).get("distribution") == "none":
        overrides["train_neg_sample_args"] = None
    # The artefacts hold the files that replaced stages; the original files may be gone.
    imported = [
        role for role in record.get("imported", ()) if overrides.pop(f"{role}_embeddings", 0)
    ]
    overrides |= {f"{role}_model": None for role in imported}
    version = identity.get("version")
    try:
        for cls in getattr(registry.describe(model).load(), "settings_classes", ()):
            overrides = cls.given(overrides)
        overrides["data_path"] = str(data_folder)
        config = HellmConfig(model, record["dataset"], overrides)
    except ConfigError as error:
        raise RunError(
            f"{path} was written by recbole-hellm {version} and does not fit this version: {error}"
        ) from error
    now = json.loads(json.dumps(config.identifying_settings(), default=str))
    then = identity["settings"]
    for key in sorted({*now, *then}):
        if now.get(key) != then.get(key) and config.entry.outside:
            raise RunError(
                f"{path} has {key}={then.get(key)!r}, which is {now.get(key)!r} now; restore the "
                f"settings file beside {config.entry.module}, or train the model again."
            )
        if now.get(key) != then.get(key):
            raise RunError(
                f"{path} was written by recbole-hellm {version}, where {key} was "
                f"{then.get(key)!r} rather than {now.get(key)!r}; use that version."
            )
    return config


def _recorded_data_path(recorded: Mapping[str, Any]) -> Path:
    """The folder of datasets; earlier versions recorded the folder of the one dataset."""
    path, name = Path(recorded["data_path"]), recorded["dataset"]
    return path.parent if path.name == name and not (path / name).is_dir() else path


def _own_dataset(config: HellmConfig, identity: Identity, features: bool, run: Path) -> Any:
    """The dataset that a run was trained on: what its folder holds now, or an earlier version.

    ``data_path`` of the configuration becomes the folder of that version.
    """
    present = config["data_path"]
    versions = version_directories(
        config["dataset"], config.dataset_directory, str(identity.get("content"))
    )
    errors: list[HellmError] = []
    for data_path in (present, *map(str, versions)):
        config["data_path"] = data_path
        try:
            dataset = open_dataset(config, features, prepare=False)
            _check_dataset(dataset, identity, config, features, run)
        except (DataError, FeatureError, RunError) as error:
            errors.append(error)
            continue
        if data_path != present:
            logger.warning(
                "'%s' has changed since %s was trained; its data is taken from %s.",
                config["dataset"],
                run,
                data_path,
            )
        return dataset
    config["data_path"] = present
    raise errors[0]


def _check_place(config: HellmConfig, run: Path) -> None:
    """Check that the dataset is there; reading a run makes no data."""
    folder = config.dataset_directory
    if not (folder / f"{config['dataset']}.inter").is_file():
        raise RunError(
            f"The dataset of {run} is not in {folder}; give the folder that holds "
            f"{config['dataset']}/ with --data_path."
        )


def _check_dataset(
    dataset: Any, identity: Identity, config: HellmConfig, features: bool, run: Path
) -> None:
    hashes = {
        "content": ("interactions", dataset.interactions_hash),
        "candidates": ("items", dataset.candidates_hash),
        "split": ("validation and test items", dataset.fingerprint),
    }
    if "columns" in identity:  # earlier versions did not tell them
        hashes["columns"] = ("item, user or knowledge columns", dataset.columns_hash)
    if features:
        hashes["features"] = ("item features", dataset.features_fingerprint)
    for key, (description, value) in hashes.items():
        if identity.get(key) != value:
            raise RunError(
                f"{config.dataset_directory} holds other {description} than those that {run} was "
                "trained on; set `data_path` to the folder with its dataset."
            )
