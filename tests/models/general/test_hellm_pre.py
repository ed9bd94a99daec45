from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_hellm.models.general.hellm_pre import HeLLMPre

M, N, K = 6, 7, 3
PAIRS = [(1, 1), (1, 2), (2, 2), (2, 3), (2, 5), (3, 1), (3, 3), (4, 6), (4, 2), (5, 4), (2, 2)]
# User 6 and item 7 are isolated, user 5 shares no item with anyone.
BATCH = {
    "user_id": torch.tensor([2, 4, 1]),
    "item_id": torch.tensor([5, 6, 2]),
    "neg_item_id": torch.tensor([7, 1, 5]),
}
RNG = np.random.default_rng(5)
TABLES = {name: RNG.normal(size=(N, 4)).astype(np.float32) for name in ("text", "image")}
SETTINGS = {
    "embedding_size": 5,
    "knn_k": K,
    "tau": 0.4,
    "reg_weight": 0.3,
    "alpha_u2u": 0.8,
    "beta_i2i": 0.2,
    "contrast": "all",
    "contrast_denominator": "all",
}


@pytest.fixture
def build(build_model: Any, toy_dataset: Any) -> Callable[..., HeLLMPre]:
    def make(**settings: Any) -> HeLLMPre:
        dataset = toy_dataset(PAIRS, M, N, TABLES)
        return build_model(HeLLMPre, dataset, **(SETTINGS | settings))

    return make


# The paper's equations, with dense matrices -------------------------------------------------------


def adjacency() -> Tensor:
    matrix = torch.zeros(M, N, dtype=torch.float64)
    for user, item in PAIRS:
        matrix[user - 1, item - 1] = 1.0
    return matrix


def item_incidence() -> Tensor:
    """Equations 3 and 4 and the concatenation over modalities."""
    blocks = []
    for table in TABLES.values():
        rows = torch.from_numpy(table).double()
        cosine = (rows @ rows.T) / (rows.norm(dim=1)[:, None] * rows.norm(dim=1)[None])
        block = torch.zeros(N, N, dtype=torch.float64)
        for i in range(N):
            for j in sorted(range(N), key=lambda j: -float(cosine[i, j]))[:K]:
                block[i, j] = 1.0
        blocks.append(block)
    return torch.cat(blocks, dim=1)


def reciprocal(values: Tensor, power: float) -> Tensor:
    return torch.where(values > 0, values.clamp_min(1e-30) ** -power, 0.0)


def dense_vectors(model: HeLLMPre) -> dict[str, Tensor]:
    s, encoder, a = model.settings, model.network, adjacency()
    square = torch.zeros(M + N, M + N, dtype=torch.float64)
    square[:M, M:], square[M:, :M] = a, a.T
    scale = reciprocal(square.sum(1), 0.5)
    square = scale[:, None] * square * scale[None]
    layer = torch.cat([encoder.user_table, encoder.item_table])
    layers = [layer]
    for _ in range(s.n_layers_ui):
        layers.append(square @ layers[-1])
    user, item = torch.stack(layers).mean(0).split([M, N])
    vectors = {"user": user, "item": item}
    if s.use_u2u:
        gram = a @ a.T
        gram = gram - torch.diag(gram.diag())
        step = reciprocal(gram.sum(1), 1.0)[:, None] * gram
        h = torch.linalg.matrix_power(step, s.n_layers_u2u) @ encoder.user_hyper_table
        vectors["user_hyper"] = h
        vectors["user"] = user + h / h.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if s.use_i2i:
        incidence = item_incidence()
        gram = incidence @ incidence.T
        scale = reciprocal(gram.sum(1), 0.5)
        step = scale[:, None] * gram * scale[None]
        h = torch.linalg.matrix_power(step, s.n_layers_i2i) @ encoder.item_hyper_table
        vectors["item_hyper"] = h
        vectors["item"] = item + h / h.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return vectors


def dense_contrast(model: HeLLMPre, fused: Tensor, hyper: Tensor) -> Tensor:
    """Equation 7 as a mean, with or without the anchor's similarity with itself."""
    tau = model.settings.tau

    def s(x: Tensor, y: Tensor) -> Tensor:
        return x @ y / (x.norm() * y.norm()).clamp_min(1e-12) / tau

    terms = []
    for u in range(len(fused)):
        others = [v for v in range(len(fused)) if model.settings.variant == "paper" or v != u]
        denominator = torch.stack(
            [s(hyper[v], fused[u]).exp() for v in range(len(fused))]
            + [s(fused[v], fused[u]).exp() for v in others]
        ).sum()
        terms.append(-torch.log(s(hyper[u], fused[u]).exp() / denominator))
    return torch.stack(terms).mean()


def dense_losses(model: HeLLMPre) -> dict[str, Tensor]:
    s, vectors = model.settings, dense_vectors(model)
    scores = vectors["user"] @ vectors["item"].T
    bpr, squares = [], []
    for user, i, j in zip(*(values.tolist() for values in BATCH.values()), strict=True):
        bpr.append(-torch.log(torch.sigmoid(scores[user - 1, i - 1] - scores[user - 1, j - 1])))
        rows = (vectors["user"][user - 1], vectors["item"][i - 1], vectors["item"][j - 1])
        squares += [row @ row for row in rows]
    terms = {"bpr": torch.stack(bpr).mean()}
    terms["reg"] = s.reg_weight * 0.5 * torch.stack(squares).sum() / len(bpr)
    for side, weight in (("user", s.alpha_u2u), ("item", s.beta_i2i)):
        if s.use_contrast and weight > 0 and f"{side}_hyper" in vectors:
            loss = dense_contrast(model, vectors[side], vectors[f"{side}_hyper"])
            terms[f"contrast_{side}"] = weight * loss
    return terms


CASES: list[dict[str, Any]] = [
    {"variant": variant, "use_u2u": u2u, "use_i2i": i2i, "use_contrast": contrast}
    for variant, u2u, i2i, contrast in itertools.product(
        ("paper", "released"), (True, False), (True, False), (True, False)
    )
]
DEPTHS: list[dict[str, Any]] = [
    {"n_layers_ui": 0, "n_layers_u2u": 1, "n_layers_i2i": 2},
    {"n_layers_ui": 3, "n_layers_u2u": 3, "n_layers_i2i": 1},
]


WEIGHTS: list[dict[str, Any]] = [{"alpha_u2u": 0.0}, {"beta_i2i": 0.0}]


@pytest.mark.parametrize("settings", CASES + DEPTHS + WEIGHTS)
def test_losses_gradients_and_scores_are_the_equations(
    assert_scores: Callable[..., None],
    assert_losses: Callable[..., Any],
    build: Callable[..., HeLLMPre],
    settings: dict[str, Any],
) -> None:
    model = build(**settings)
    gradients = assert_losses(model, BATCH, dense_losses(model))
    assert len(gradients) == 2 + settings.get("use_u2u", True) + settings.get("use_i2i", True)
    vectors = dense_vectors(model)
    assert_scores(model, vectors["user"] @ vectors["item"].T)


def test_embeddings_are_exported_by_internal_id(build: Callable[..., HeLLMPre]) -> None:
    model = build().eval()
    vectors, tables = dense_vectors(model), model.export_embeddings()
    assert set(tables) == {"user", "item"}
    for side, table in tables.items():
        assert not table.requires_grad
        assert table[0].abs().sum() == 0
        torch.testing.assert_close(table[1:], vectors[side].detach())


def fixed_anchors(monkeypatch: pytest.MonkeyPatch, user: list[int], item: list[int]) -> None:
    drawn = {M: user, N: item}

    def randperm(n: int, **_: Any) -> Tensor:
        return torch.tensor(drawn[n] + [row for row in range(n) if row not in drawn[n]])

    monkeypatch.setattr(torch, "randperm", randperm)


def test_batch_contrast_averages_to_the_full_one(
    build: Callable[..., HeLLMPre], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = build()
    loss = full.calculate_loss(BATCH)
    sampled = build(contrast="batch", contrast_anchors=1)
    losses = []
    # Every pair of a user and an item anchor equally often.
    for step in range(M * N):
        fixed_anchors(monkeypatch, [step % M], [step % N])
        losses.append(sampled.calculate_loss(BATCH))
    average = torch.stack(losses).mean()
    torch.testing.assert_close(average, loss)
    for left, right in zip(
        torch.autograd.grad(average, list(sampled.parameters())),
        torch.autograd.grad(loss, list(full.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(left, right)


def test_batch_denominators_hold_anchors_only(
    build: Callable[..., HeLLMPre], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(contrast="batch", contrast_anchors=3, contrast_denominator="batch")
    users, items = [4, 0, 2], [6, 1, 3]
    fixed_anchors(monkeypatch, users, items)
    model.calculate_loss(BATCH)
    vectors = dense_vectors(model)
    for side, rows, weight in (("user", users, 0.8), ("item", items, 0.2)):
        literal = dense_contrast(model, vectors[side][rows], vectors[f"{side}_hyper"][rows])
        torch.testing.assert_close(model.last_losses[f"contrast_{side}"], weight * literal.detach())


@pytest.mark.parametrize("denominator", ["all", "batch"])
def test_more_anchors_than_nodes_means_all_nodes(
    build: Callable[..., HeLLMPre], denominator: str
) -> None:
    sampled = build(contrast="batch", contrast_denominator=denominator)
    torch.testing.assert_close(sampled.calculate_loss(BATCH), build().calculate_loss(BATCH))


def test_anchors_follow_torchs_seed(build: Callable[..., HeLLMPre]) -> None:
    model = build(contrast="batch", contrast_anchors=2)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model.calculate_loss(BATCH).item())
    assert losses[0] == losses[1] != losses[2]


def test_propagated_vectors_are_kept_in_evaluation_and_dropped_in_training(
    build: Callable[..., HeLLMPre],
) -> None:
    model = build()
    everyone = {"user_id": torch.arange(1, M + 1)}
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    model.eval()
    before = model.full_sort_predict(everyone)
    model.predict(BATCH)
    assert len(calls) == 1

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    model.calculate_loss(BATCH).backward()
    optimizer.step()
    model.eval()
    after = model.full_sort_predict(everyone)
    assert len(calls) == 2
    assert not torch.equal(before[:, 1:], after[:, 1:])

    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert not torch.equal(model.full_sort_predict(everyone)[:, 1:], after[:, 1:])


def test_features_are_not_read_without_the_item_hypergraph(
    build_model: Callable[..., HeLLMPre], toy_dataset: Callable[..., Any]
) -> None:
    dataset = toy_dataset(PAIRS, M, N, {})
    dataset.item_features = None  # calling it would fail
    build_model(HeLLMPre, dataset, use_i2i=False).calculate_loss(BATCH)
