"""A finished run opened again: its configuration rebuilt, its dataset checked, its model loaded.

``config.yaml`` and ``identity.json`` hold every setting's final value, so that a run is restored as
it was trained even where a default has changed since. Settings of stages are not needed: the run's
own files hold what it took from them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from recbole.utils import init_seed

from recbole_hellm.config.resolution import HellmConfig, declared_facts
from recbole_hellm.config.yaml_files import read_yaml
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.evaluation.evaluator import Evaluator
from recbole_hellm.runs.directory import ARTEFACTS, RunDirectory
from recbole_hellm.runs.opening import build_model, open_dataset, open_splits
from recbole_hellm.runs.rankings import lists_file, maskings, write_lists
from recbole_hellm.training.model_state import load_weights

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ReopenedRun:
    """A run's parts, as they were when its test split was scored.

    Attributes
    ----------
    config : HellmConfig
    dataset : Dataset
        All interactions; its tokens are the names of the model's ids.
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
        ways = maskings(self.config)
        return self.evaluator.evaluate(self.model, phase, ways, show_progress).metrics


def reopen(
    directory: RunDirectory,
    data_path: str | Path | None = None,
    backbone: str | None = None,
    save_topk: int | None = None,
) -> ReopenedRun:
    """Open a finished run again; see :meth:`RunResult.restore`.

    Its evaluator keeps lists of `save_topk` items; of as many as then, by default.
    """
    record = directory.read_json("metrics.json")
    if "recipe" in record:
        raise RunError(
            f"{directory.path} is a kept record, which holds no model; name the run itself, a "
            "folder in runs_dir."
        )
    identity = directory.read_json("identity.json")
    config = _configuration(directory, record, identity, data_path, save_topk)
    whole = config.entry.kind == "LLM"
    # Artefacts hold the stages' embeddings, so their features are read no more.
    features = not whole and config.needs_features()
    dataset = open_dataset(config, features)
    _check_dataset(dataset, identity, config, features, directory.path)
    init_seed(config["seed"], config["reproducibility"])
    splits, evaluator = open_splits(config, dataset)
    if whole:
        model = _fine_tuned(config, dataset, splits[0], directory, backbone)
    else:
        model = build_model(config, splits[0])
        load_best(model, directory, config["device"])
    return ReopenedRun(config, dataset, model.eval(), evaluator)


def add_lists(
    directory: RunDirectory, length: int, data_path: str | Path, show_progress: bool = False
) -> None:
    """Write the recommended lists of a finished run, where it kept none or shorter ones.

    The run may have been trained as another one's stage. Its metrics and ranks stay as they are.

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
        If there are fewer items.
    """
    masking = directory.read_json("metrics.json")["masking"]
    path = directory.file(lists_file(masking))
    if path.is_file() and pd.read_parquet(path, columns=["place"])["place"].max() >= length:
        return
    logger.info("%s has no lists of %d items; they are made now.", directory.path, length)
    with directory.locked():
        again = reopen(directory, data_path, save_topk=length)
        test = again.evaluator.evaluate(again.model, "test", (masking,), show_progress)
        write_lists(again.dataset, directory, test)


def load_best(model: Any, directory: RunDirectory, device: Any) -> None:
    """Load the weights of the epoch that validation chose.

    Raises
    ------
    RunError
        If the checkpoint is missing, damaged or another model's.
    """
    path = directory.best_checkpoint
    if not path.is_file():
        raise RunError(f"{path} is missing, and with it the weights of this run; run it again.")
    try:
        load_weights(model, directory.load_checkpoint(path, device))
    except (KeyError, RuntimeError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise RunError(f"{path} does not hold the weights of this model ({lines[0]}).") from error


def _fine_tuned(
    config: HellmConfig, dataset: Any, part: Any, directory: RunDirectory, backbone: str | None
) -> Any:
    from recbole_hellm.models.llm.artefacts import load_artefacts

    folder = directory.file(ARTEFACTS)
    if not folder.is_dir():
        raise RunError(
            f"{directory.path} has no folder '{folder.name}', which runs of this version leave; "
            "train it again with --force."
        )
    tokens = list(dataset.item_tokens)
    network = load_artefacts(folder, item_tokens=tokens, backbone=backbone, device=config["device"])
    return build_model(config, part, network=network)


def _configuration(
    directory: RunDirectory,
    record: Mapping[str, Any],
    identity: Mapping[str, Any],
    data_path: str | Path | None,
    save_topk: int | None,
) -> HellmConfig:
    """The configuration that the run recorded.

    Raises
    ------
    RunError
        If it was recorded by a version with other settings than this one's.
    """
    path = directory.file("config.yaml")
    try:
        recorded = read_yaml(path) | identity["settings"]
        place = _recorded_data_path(recorded) if data_path is None else Path(data_path)
    except (ConfigError, KeyError, TypeError) as error:
        raise RunError(f"{path} or identity.json beside it is missing or damaged.") from error
    model = recorded.pop("model_path", record["model"])
    given = {key: value for key, value in recorded.items() if declared_facts(key).restored}
    if save_topk is not None:
        given["save_topk"] = save_topk
    # RecBole writes its own mark for no negatives, and does not read it.
    if (given.get("train_neg_sample_args") or {}).get("distribution") == "none":
        given["train_neg_sample_args"] = None
    # Files in place of stages are in the artefacts, and perhaps nowhere else.
    imported = [role for role in record.get("imported", ()) if given.pop(f"{role}_embeddings", 0)]
    given |= {f"{role}_model": None for role in imported}
    version = identity.get("version")
    try:
        given["data_path"] = str(place)
        config = HellmConfig(model, record["dataset"], given)
    except ConfigError as error:
        raise RunError(
            f"{path} was written by recbole-hellm {version} and does not suit this version: {error}"
        ) from error
    now = json.loads(json.dumps(config.identifying_settings(), default=str))
    then = identity["settings"]
    for key in sorted({*now, *then}):
        if now.get(key) != then.get(key):
            raise RunError(
                f"{path} was written by recbole-hellm {version}, where {key} was "
                f"{then.get(key)!r} and not {now.get(key)!r} as it would be now; use that version."
            )
    return config


def _recorded_data_path(recorded: Mapping[str, Any]) -> Path:
    """The folder of datasets; earlier versions recorded the dataset's own folder in it."""
    path, name = Path(recorded["data_path"]), recorded["dataset"]
    return path.parent if path.name == name and not (path / name).is_dir() else path


def _check_dataset(
    dataset: Any, identity: Mapping[str, Any], config: HellmConfig, features: bool, run: Path
) -> None:
    found = {
        "content": ("interactions", dataset.interactions_hash),
        "candidates": ("items", dataset.candidates_hash),
        "split": ("validation and test items", dataset.fingerprint),
    }
    if features:
        found["features"] = ("item features", dataset.features_fingerprint)
    for key, (what, value) in found.items():
        if identity.get(key) != value:
            raise RunError(
                f"{config.dataset_directory} holds other {what} than those that {run} was trained "
                "on; give the folder with its dataset as `data_path`."
            )
