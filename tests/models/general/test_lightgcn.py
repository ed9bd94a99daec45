"""LightGCN is RecBole's: the same weights, losses, gradients and scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import lightgcn

from recbole_hellm import registry
from recbole_hellm.compat import supply_dok_update
from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.models.general.lightgcn import LightGCN

Pair = tuple[lightgcn.LightGCN, LightGCN, Interaction]


@pytest.fixture(params=[0, 1, 3])
def pair(request: pytest.FixtureRequest, make_parts: Callable[..., Any]) -> Pair:
    supply_dok_update()
    config, dataset, parts = make_parts("LightGCN", n_layers=request.param, reg_weight=0.1)
    models = []
    for cls in (lightgcn.LightGCN, LightGCN):
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of RecBole's constructor
            models.append(cls(config, parts[0]))
    batch = next(iter(training_loader(config, dataset, parts, models[0])))
    return models[0], models[1], batch


def test_it_is_the_class_of_that_name() -> None:
    assert registry.model_class("LightGCN") is LightGCN


def test_it_starts_with_the_same_weights_and_keeps_no_others(pair: Pair) -> None:
    recboles, ours, _ = pair
    expected = recboles.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name])


def test_losses_gradients_and_scores_are_the_same(pair: Pair) -> None:
    recboles, ours, batch = pair
    for _ in range(3):
        losses = [model.calculate_loss(batch) for model in pair[:2]]
        torch.testing.assert_close(losses[1], losses[0])
        for model, loss in zip(pair[:2], losses, strict=True):
            model.zero_grad()
            loss.backward()
        with torch.no_grad():
            for own, other in zip(ours.parameters(), recboles.parameters(), strict=True):
                torch.testing.assert_close(own.grad, other.grad)
                assert other.grad.abs().sum() > 0
                # Both go on from the same weights.
                own -= 0.5 * other.grad
                other -= 0.5 * other.grad
    with torch.no_grad():
        torch.testing.assert_close(ours.predict(batch), recboles.predict(batch))
        scores = [model.full_sort_predict(batch) for model in pair[:2]]
    torch.testing.assert_close(scores[1], scores[0])
    assert np.ptp(scores[0].numpy()) > 0


def test_nothing_is_warned_of(make_parts: Callable[..., Any]) -> None:
    config, _, parts = make_parts("LightGCN")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = LightGCN(config, parts[0])
        model.double()
        assert model.forward()[0].dtype == torch.float64
