"""Datasets, features and models of a run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.runs import outcome

from recbole_hellm import compat, run
from recbole_hellm.errors import BackboneError, FeatureError
from recbole_hellm.runs import opening
from recbole_hellm.runs.results import RunResult


def test_a_dataset_that_draws_numbers_draws_the_same(
    train: Callable[..., RunResult], tmp_path: Path
) -> None:
    """DIEN's dataset draws a negative item for every interaction while it is loaded."""
    options = {"epochs": 1, "MAX_ITEM_LIST_LENGTH": 3}
    first, second = (train("DIEN", **options, runs_dir=str(tmp_path / name)) for name in "ab")
    assert outcome(first) == outcome(second)


def test_models_without_use_for_features_need_none(
    train: Callable[..., RunResult],
    small_variant: Callable[[str], dict[str, Any]],
    interactions: pd.DataFrame,
    make_dataset: Any,
    tmp_path: Path,
) -> None:
    make_dataset(tmp_path / "bare/tiny", interactions)
    shutil.rmtree(tmp_path / "bare/tiny/features")
    bare = {"data_path": str(tmp_path / "bare"), "epochs": 1}
    for model in ("CoLLM", "LLaRA"):
        result = train(model, **small_variant(model) | bare)
        assert result.path == train(model, **small_variant(model), epochs=1).path
    train("HeLLMPre-wo-I2I", **bare)
    for model in ("HeLLMPre-wo-U2U", "HeLLM-wo-GNN_PEFT"):
        with pytest.raises(FeatureError, match="neither item texts"):
            train(model, **bare)


def test_stages_get_the_keys_of_the_dataset(
    quick: dict[str, Any], small_model: dict[str, Any], tmp_path: Path, interactions: pd.DataFrame
) -> None:
    from recbole_hellm.data.features.store import save_features

    names = {"user_id": "user", "item_id": "thing", "timestamp": "when"}
    folder = tmp_path / "named"
    folder.mkdir()
    header = ["user:token", "thing:token", "when:float"]
    interactions.rename(columns=names).to_csv(
        folder / "named.inter", sep="\t", index=False, header=header
    )
    items = sorted(interactions["item_id"].unique())
    save_features(folder, "text", "toy", items, np.random.default_rng(0).normal(size=(30, 4)))
    fields = {"USER_ID_FIELD": "user", "ITEM_ID_FIELD": "thing", "TIME_FIELD": "when"}
    options = quick | small_model | fields | {"data_path": str(tmp_path), "epochs": 1}
    result = run("HeLLM", "named", **options)
    assert {part.record["users"] for part in (result, *result.stages)} == {36}


def test_short_users_are_told(
    train: Callable[..., RunResult], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="recbole_hellm"):
        result = train("Pop")
    assert "4 users of 'tiny' have fewer than 3 interactions" in caplog.text
    assert result.record["users"] == 36


def test_a_backbone_that_is_not_there_is_told_before_texts_are_encoded(
    train: Callable[..., RunResult], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "texts/tiny"
    make_dataset(folder, interactions)
    shutil.rmtree(folder / "features")
    rows = "".join(f"{item}\ta red thing\n" for item in interactions["item_id"].unique())
    (folder / "tiny.item").write_text(f"item_id:token\ttitle:token_seq\n{rows}")
    options = {"data_path": str(tmp_path / "texts"), "text_encoder": "tfidf"}
    with pytest.raises(BackboneError, match="is not a folder; name a local folder"):
        train("HeLLM", **options, backbone=str(tmp_path / "absent"))
    assert not (folder / "features").exists()


@pytest.mark.parametrize("first", [False, True])
def test_recboles_mask_is_mended_where_first_items_are_targets(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    mended: list[bool] = []
    monkeypatch.setattr(compat, "see_padding_at_the_first_place", lambda: mended.append(True))
    config = make_config("SASRec", first_item_target=first)
    opening.open_dataset(config, features=False, prepare=False)
    assert mended == [True] * first
