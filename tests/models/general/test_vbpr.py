from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_hellm.models.general.vbpr import VBPR, VisualFactors

M, N = 5, 6
# User 5 and item 6 are isolated.
PAIRS = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 1), (3, 4), (4, 5), (4, 2), (2, 2)]
BATCH = {
    "user_id": torch.tensor([2, 4, 1, 2]),
    "item_id": torch.tensor([3, 5, 2, 2]),
    "neg_item_id": torch.tensor([6, 1, 5, 1]),
}
# In the order of listing, which is not that of the names.
WIDTHS = {"text": 4, "image": 3}
RNG = np.random.default_rng(5)
TABLES = {
    name: 7 * RNG.normal(size=(N, width)).astype(np.float32) for name, width in WIDTHS.items()
}
SETTINGS = {"embedding_size": 2, "reg_weight": 0.3, "reg_projection": 0.05}


@pytest.fixture
def build(build_model: Any, toy_dataset: Any) -> Callable[..., VBPR]:
    def make(modalities: tuple[str, ...] = ("text", "image"), **settings: Any) -> VBPR:
        dataset = toy_dataset(PAIRS, M, N, {name: TABLES[name] for name in modalities})
        return build_model(VBPR, dataset, **(SETTINGS | settings))

    return make


# The paper's equations, number by number ----------------------------------------------------------


def literal_features(modalities: tuple[str, ...]) -> Tensor:
    """Concatenation of the modalities over their root mean squares, and the root of its width."""
    blocks = []
    for name in sorted(modalities):
        rows = torch.from_numpy(TABLES[name]).double()
        blocks.append(rows / (rows**2).mean() ** 0.5)
    width = sum(WIDTHS[name] for name in modalities)
    return torch.cat(blocks, dim=1) / width**0.5


def literal_score(network: VisualFactors, f: Tensor, user: int, item: int) -> Tensor:
    """Equation 4 without alpha and beta_u, rows from 0."""
    score = network.item_bias[item, 0]
    for k in range(network.gamma_user.shape[1]):
        score = score + network.gamma_user[user, k] * network.gamma_item[item, k]
        projected = sum(network.projection[k, c] * f[item, c] for c in range(f.shape[1]))
        score = score + network.theta_user[user, k] * projected
    return score + sum(network.feature_bias[0, c] * f[item, c] for c in range(f.shape[1]))


def literal_losses(model: VBPR, f: Tensor) -> dict[str, Tensor]:
    network, s = model.network, model.settings
    bpr, squares = [], []
    for u, i, j in zip(*((ids - 1).tolist() for ids in BATCH.values()), strict=True):
        difference = literal_score(network, f, u, i) - literal_score(network, f, u, j)
        bpr.append(-torch.log(1 / (1 + torch.exp(-difference))))
        used = [network.gamma_user[u], network.theta_user[u]]
        used += [network.gamma_item[i], network.gamma_item[j]]
        used += [network.item_bias[i], network.item_bias[j]]
        squares.append(sum((part**2).sum() for part in used))
    shared = (network.projection**2).sum() + (network.feature_bias**2).sum()
    return {
        "bpr": sum(bpr) / len(bpr),
        "reg": s.reg_weight / 2 * sum(squares) / len(squares),
        "reg_projection": s.reg_projection / 2 * shared,
    }


@pytest.mark.parametrize("modalities", [("text", "image"), ("text",)])
def test_losses_gradients_and_scores_are_the_equations(
    assert_scores: Callable[..., None],
    assert_losses: Callable[..., Any],
    build: Callable[..., VBPR],
    modalities: tuple[str, ...],
) -> None:
    model, f = build(modalities), literal_features(modalities)
    assert len(assert_losses(model, BATCH, literal_losses(model, f))) == 6
    expected = [
        [literal_score(model.network, f, user, item) for item in range(N)] for user in range(M)
    ]
    assert_scores(model, torch.stack([torch.stack(row) for row in expected]))


def test_only_the_features_of_the_batch_are_read(build: Callable[..., VBPR]) -> None:
    model = build()
    assert not model.network.features.requires_grad
    model.network.features[3] = torch.nan  # item 4, which no triple has
    loss = model.calculate_loss(BATCH)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_weights_fit_whatever_the_order_of_modalities(build: Callable[..., VBPR]) -> None:
    first, second = build(("text", "image")).eval(), build(("image", "text")).eval()
    second.load_state_dict(first.state_dict())
    everyone = {"user_id": torch.arange(1, M + 1)}
    left, right = first.full_sort_predict(everyone), second.full_sort_predict(everyone)
    assert torch.equal(left, right)


def test_items_without_interactions_are_ranked_by_their_features(
    build: Callable[..., VBPR],
) -> None:
    model = build()
    network = model.network
    with torch.no_grad():
        network.features[5] = network.features[1]
        network.gamma_item[[1, 5]] = 0.0
        network.item_bias[[1, 5]] = 0.0
    scores = model.eval().full_sort_predict({"user_id": torch.arange(1, M + 1)})
    torch.testing.assert_close(scores[:, 6], scores[:, 2])


def test_embeddings_are_exported_by_internal_id(build: Callable[..., VBPR]) -> None:
    model = build().eval()
    tables = model.export_embeddings()
    scores = model.full_sort_predict({"user_id": torch.arange(1, M + 1)})
    torch.testing.assert_close((tables["user"] @ tables["item"].T)[1:, 1:], scores[:, 1:])
    assert tables["user"][0].abs().sum() == tables["item"][0].abs().sum() == 0
