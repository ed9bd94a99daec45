from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.errors import ConfigError

DECLARED = RunSettings.declarations()


def test_the_device_may_be_one_of_torch() -> None:
    assert RunSettings(device=torch.device("cuda:1")).device == "cuda:1"
    assert RunSettings().device == "auto"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"topk": ()}, r"topk=\[\] must be one or more positive numbers\.$"),
        ({"topk": (10, 0)}, r"topk=\[10, 0\] must be one or more positive numbers\.$"),
        ({"seed": 2**32}, "seed=4294967296 must be below"),
        ({"save_topk": -1}, "save_topk=-1 must not be negative"),
        ({"mask_history": "all"}, "mask_history='all' is not allowed; use one of seen, train"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RunSettings(**values)


def test_the_validation_metric_may_be_written_in_any_case() -> None:
    assert RunSettings(valid_metric="recall@20").valid_metric == "recall@20"


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        ("mlflow, wandb", ("mlflow", "wandb")),
        (["tensorboard", "my_module:Mine"], ("tensorboard", "my_module:Mine")),
        ("none", ()),
        ([], ()),
        (None, ()),
    ],
)
def test_trackers_may_be_listed_in_one_text(given: Any, listed: tuple[str, ...]) -> None:
    assert RunSettings(trackers=given).trackers == listed


def test_tensorboard_is_the_only_tracker_unless_others_are_named() -> None:
    settings = RunSettings()
    assert (settings.trackers, settings.mlflow_uri) == (("tensorboard",), None)
    assert settings.wandb_mode == "offline"
    with pytest.raises(ConfigError, match="trackers=3 must be a list"):
        RunSettings(trackers=3)


def test_locations_and_display_do_not_identify_a_run() -> None:
    for key in (
        "data_path",
        "runs_dir",
        "device",
        "threads",
        "show_progress",
        "save_topk",
        "trackers",
    ):
        assert not DECLARED[key].facts.identifies, key
    for key in ("seed", "mask_history", "metrics", "topk", "train_batch_size"):
        assert DECLARED[key].facts.identifies, key


def test_stages_share_the_protocol_but_not_the_batch_size() -> None:
    for key in ("seed", "mask_history", "data_path", "runs_dir"):
        assert DECLARED[key].facts.passed_on, key
    for key in ("train_batch_size", "force", "bucket_by_length"):
        assert not DECLARED[key].facts.passed_on, key
