"""Inner products of the vectors against the models' own scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from recbole_hellm.errors import ConfigError
from recbole_hellm.exporting import vectors as module
from recbole_hellm.exporting.vectors import scoring_vectors
from recbole_hellm.runs.recommending import Recommender

Opened = Callable[[str], Recommender]


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "SASRec", "WEARec", "HeLLM"])
def test_products_are_the_scores_of_every_user(model: str, opened: Opened) -> None:
    recommender = opened(model)
    vectors = scoring_vectors(recommender)
    dataset = recommender.dataset
    assert len(vectors.user) == len(dataset.user_tokens) == vectors.checked == 40
    assert len(vectors.item) == len(dataset.item_tokens)
    assert vectors.user.dtype == vectors.item.dtype == np.float32
    for row, token in enumerate(dataset.user_tokens):
        ids = recommender.ids("user", [str(token)])
        scores = recommender.scores(recommender.inputs(ids, [recommender.history(ids[0])]))[0]
        products = [float(np.dot(vectors.user[row], item)) for item in vectors.item]
        np.testing.assert_allclose(products, scores[1:].numpy(), rtol=1e-4, atol=1e-5)
    assert vectors.difference <= 1e-4


@pytest.mark.parametrize("model", ["Pop", "NeuMF"])
def test_models_of_another_kind_are_refused(model: str, opened: Opened) -> None:
    with pytest.raises(ConfigError) as error:
        scoring_vectors(opened(model))
    assert str(error.value) == (
        f"{model} does not score items by inner products of vectors (it has no vectors of users "
        "and items for that), so an index cannot rank them as it does; choose another model."
    )


def test_vectors_that_give_other_scores_are_refused(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = opened("BPR")
    own = module.embedding_tables

    def changed(model: object) -> dict[str, torch.Tensor]:
        tables = own(model)
        return tables | {"item": tables["item"] + 0.1}

    monkeypatch.setattr(module, "embedding_tables", changed)
    with pytest.raises(ConfigError, match=r"\(those differ from its scores by 0\.\d+\)"):
        scoring_vectors(recommender)


def test_a_sequential_model_with_more_than_products_is_refused(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = opened("SASRec")
    model = recommender.opened.model
    score = model.full_sort_predict
    bias = torch.arange(model.n_items)
    monkeypatch.setattr(model, "full_sort_predict", lambda rows: score(rows) + bias)
    with pytest.raises(ConfigError, match=r"; try --format=onnx\.$"):
        scoring_vectors(recommender)
