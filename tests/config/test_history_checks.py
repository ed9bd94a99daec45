from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm import registry
from recbole_hellm.config.history_checks import check_histories
from recbole_hellm.errors import ConfigError

KEYS = ("bucket_by_length", "first_item_target")


def asked(**settings: Any) -> dict[str, Any]:
    return dict.fromkeys(KEYS, False) | {"split_order": "time"} | settings


@pytest.mark.parametrize("model", ["BPR", "Caser", "HeLLMPre", "BSARec"])
def test_padding_is_cut_for_models_that_do_not_read_it(model: str) -> None:
    entry = registry.describe(model)
    check_histories(entry, asked())
    with pytest.raises(ConfigError, match=f"would change the results of {model}; remove it, or"):
        check_histories(entry, asked(bucket_by_length=True))


@pytest.mark.parametrize(
    "model", ["SASRec", "GRU4Rec", "HeLLM", "CoLLM", "LLaRA-titles", "BSARec", "WEARec"]
)
def test_these_models_learn_from_an_empty_history(model: str) -> None:
    check_histories(registry.describe(model), asked(first_item_target=True))


@pytest.mark.parametrize("model", ["BPR", "HeLLMPre", "Caser", "BERT4Rec", "STAMP"])
def test_other_models_do_not(model: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_histories(registry.describe(model), asked(first_item_target=True))
    sentence = str(caught.value)
    assert f"(BSARec, GRU4Rec, HeLLM, SASRec, WEARec), which {model} does not" in sentence
    assert "--SASRec.first_item_target=True" in sentence


def test_a_model_over_the_sequential_base_does_and_one_may_say_that_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reading_models.py").write_text(
        "from recbole_hellm.models.sequential.base import NextItemRecommender\n"
        "class Mine(NextItemRecommender):\n    'A model.'\n"
        "class Other(Mine):\n    'Another.'\n    reads_empty = False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = asked(first_item_target=True)
    check_histories(registry.describe("reading_models:Mine"), settings)
    with pytest.raises(ConfigError, match="which Other does not"):
        check_histories(registry.describe("reading_models:Other"), settings)
    sys.modules.pop("reading_models")


def test_the_setting_is_of_one_model_and_leaves_ids_at_its_default(
    make_config: Callable[..., Any],
) -> None:
    plain = make_config("SASRec")
    spelt, on = (make_config("SASRec", first_item_target=value) for value in (False, True))
    assert spelt.identifying_settings() == plain.identifying_settings()
    assert on.identifying_settings() == plain.identifying_settings() | {"first_item_target": True}
    above = make_config("HeLLM", first_item_target=True, **{"HeLLMPre.epochs": 1})
    assert above["first_item_target"]
    assert not any(stage["first_item_target"] for stage in above.stages().values())
    below = make_config("HeLLM", **{"SASRec.first_item_target": True})
    assert not below["first_item_target"]
    assert below.stages()["sequence"]["first_item_target"]


def test_a_random_order_is_for_models_that_read_none(make_config: Callable[..., Any]) -> None:
    random = {"split": "ratio", "split_order": "random"}
    assert make_config("BPR", **random)["split_order"] == "random"
    for model in ("SASRec", "HeLLM", "BSARec"):
        with pytest.raises(ConfigError, match=f"no order of items, which {model} reads; use"):
            make_config(model, **random)
