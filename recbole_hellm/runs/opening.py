"""Opening the parts of a run: its dataset, splits, evaluator and untrained model."""

from __future__ import annotations

import logging
from typing import Any

import torch
from recbole.utils import init_seed

from recbole_hellm import compat, registry
from recbole_hellm.data.features.encoding import ensure_features
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.data.preparation.prepare import ensure_dataset
from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation.evaluator import Evaluator
from recbole_hellm.runs.directory import RunDirectory, SilentDirectory
from recbole_hellm.runs.identity import run_path
from recbole_hellm.training.distributed import current
from recbole_hellm.training.parallel import building_device

logger = logging.getLogger(__name__)


def open_run(config: Any) -> tuple[Any, RunDirectory]:
    """The dataset that `config` names, and the directory of the run on it."""
    if config.entry.kind == "LLM":
        _check_backbone(config)  # before item texts are encoded
    dataset = open_dataset(config, config.needs_features())
    path = run_path(config, dataset)
    if current().first:
        return dataset, RunDirectory(path)
    return dataset, SilentDirectory(path)


def _check_backbone(config: Any) -> None:
    from recbole_hellm.models.llm.loading import check_backbone
    from recbole_hellm.models.llm.settings import LLMSettings

    check_backbone(LLMSettings.from_config(config))


def open_dataset(config: Any, features: bool, prepare: bool = True) -> Any:
    """The dataset of `config`.

    Parameters
    ----------
    config : HellmConfig
    features : bool
        Whether its item features are needed.
    prepare : bool
        Prepare missing files.

    Raises
    ------
    DataError, FeatureError
        If files are missing and cannot be prepared, or are malformed.
    """
    compat.supply_dok_update()
    compat.count_every_interaction()
    if config["first_item_target"]:
        compat.see_padding_at_the_first_place()
    if config["threads"]:
        torch.set_num_threads(int(config["threads"]))
    if prepare:
        with current().first_goes_ahead():
            ensure_dataset(config)
            if features:
                ensure_features(config)
    init_seed(config["seed"], config["reproducibility"])  # DIEN's dataset draws negatives
    return create_dataset(config)


def open_splits(config: Any, dataset: Any) -> tuple[list[Any], Evaluator]:
    """Training, validation and test splits, and the evaluator of the last two."""
    splits = dataset.build()
    return splits, Evaluator(config, dataset, dict(zip(("valid", "test"), splits[1:], strict=True)))


def build_model(config: Any, split: Any, **trained: Any) -> Any:
    """Build the model that `config` names, for the training split.

    Keyword arguments are trained parts for the model.

    Raises
    ------
    ConfigError
        If a RecBole model refuses its settings.
    """
    cls = config.model_class
    device = building_device(config)
    if not registry.is_recbole(cls):
        return cls(config, split, **trained).to(device)
    try:
        return cls(config, split).to(device)
    except (AssertionError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        logger.debug("RecBole's error", exc_info=error)
        raise ConfigError(
            f"RecBole cannot build {config['model']} with these settings "
            f"({type(error).__name__}: {error}); see `recbole-hellm models --model="
            f"{config['model']}`."
        ) from error
