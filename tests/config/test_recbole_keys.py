from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from recbole_hellm.config.recbole_keys import PASSED_ON, RECBOLE_KEYS
from recbole_hellm.config.resolution import declared_facts
from recbole_hellm.config.run_settings import RunSettings
from recbole_hellm.config.training_settings import TrainingSettings


def test_every_key_is_one_of_recboles(make_config: Callable[..., Any]) -> None:
    config = make_config("BPR")
    known = set(config.final_config_dict).union(*config.parameters.values())
    assert set(RECBOLE_KEYS) <= known


def test_no_key_is_declared_twice() -> None:
    declared = {*RunSettings.keys(), *TrainingSettings.keys()}
    assert not declared & set(RECBOLE_KEYS)


def test_refused_keys_are_not_restored() -> None:
    """A restored run would set them, and be refused."""
    refused = [key for key in RECBOLE_KEYS.values() if key.not_offered]
    assert refused
    assert not any(key.facts.restored for key in refused)


def test_stages_share_the_keys_of_datasets() -> None:
    assert declared_facts("USER_ID_FIELD").passed_on
    assert "field_separator" in PASSED_ON
    assert not declared_facts("embedding_size").passed_on
    assert not declared_facts("gpu_id").passed_on


@pytest.mark.parametrize(
    ("key", "identifies"),
    [("gpu_id", False), ("state", False), ("MODEL_TYPE", False), ("eval_args", True)],
)
def test_keys_that_cannot_change_a_result_do_not_identify_a_run(key: str, identifies: bool) -> None:
    assert declared_facts(key).identifies is identifies
