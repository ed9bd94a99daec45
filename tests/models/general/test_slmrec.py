from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils import InputType
from torch import Tensor
from torch.nn import functional as F

from recbole_hellm.graph.bipartite import interaction_matrix
from recbole_hellm.models.general.slmrec import (
    SLMRec,
    SLMRecSettings,
    StreamEncoder,
    fine_to_coarse,
)

M, N = 6, 7
PAIRS = [(1, 1), (1, 2), (2, 2), (2, 3), (2, 5), (3, 1), (3, 3), (4, 6), (4, 2), (5, 4), (2, 2)]
TRAIN = {"user_id": torch.tensor(PAIRS)[:, 0], "item_id": torch.tensor(PAIRS)[:, 1]}
# User 6 and item 7 are isolated. Item 2 comes with three users, user 2 with items 2, 3 and 5, and
# one pair twice.
BATCH = {
    "user_id": torch.tensor([2, 4, 1, 2, 3, 2, 2, 6]),
    "item_id": torch.tensor([5, 2, 2, 2, 1, 3, 5, 7]),
}
COUNTS = [1, 2, 3]
# "text" comes first here and by name after "image", but stands in the coarsest space.
WIDTHS = {"text": 4, "image": 3, "video": 5}
RNG = np.random.default_rng(5)
TABLES = {name: RNG.normal(size=(N, width)).astype(np.float32) for name, width in WIDTHS.items()}
TABLES["text"][3] = 0.0
SETTINGS = {"embedding_size": 6, "tau": 0.7, "ssl_tau": 1.3, "ssl_weight": 0.4}


@pytest.fixture
def build(build_model: Any, toy_dataset: Any) -> Callable[..., SLMRec]:
    def make(modalities: int = 2, **settings: Any) -> SLMRec:
        dataset = toy_dataset(PAIRS, M, N, dict(list(TABLES.items())[:modalities]))
        return build_model(SLMRec, dataset, **(SETTINGS | settings))

    return make


# The paper's equations, with dense matrices -------------------------------------------------------


def adjacency() -> Tensor:
    a = torch.zeros(M, N, dtype=torch.float64)
    for user, item in PAIRS:
        a[user - 1, item - 1] = 1.0
    square = torch.zeros(M + N, M + N, dtype=torch.float64)
    square[:M, M:], square[M:, :M] = a, a.T
    degree = square.sum(1)
    scale = torch.where(degree > 0, degree.clamp_min(1e-30) ** -0.5, 0.0)
    return scale[:, None] * square * scale[None]


ORDER = {1: ["text"], 2: ["image", "text"], 3: ["image", "video", "text"]}


def dense_streams(model: SLMRec, modalities: int) -> tuple[list[Tensor], list[Tensor]]:
    """LightGCN of the ids and of every projected modality, over one user table."""
    encoder, square = model.network, adjacency()
    starts = [encoder.item_table]
    for projection, name in zip(encoder.projections, ORDER[modalities], strict=True):
        rows = []
        for raw in torch.from_numpy(TABLES[name]).double():
            unit = raw / raw.norm() if raw.norm() > 0 else raw
            rows.append(projection.weight[:, :-1] @ unit + projection.weight[:, -1])
        starts.append(torch.stack(rows))
    users, items = [], []
    for start in starts:
        layers = [torch.cat([encoder.user_table, start])]
        for _ in range(model.settings.n_layers):
            layers.append(square @ layers[-1])
        user, item = torch.stack(layers).mean(0).split([M, N])
        users.append(user)
        items.append(item)
    return users, items


def dense_vectors(model: SLMRec, modalities: int) -> tuple[Tensor, Tensor]:
    users, items = dense_streams(model, modalities)
    fuse_user, fuse_item = model.network.fuse_user, model.network.fuse_item
    return (
        torch.cat(users, 1) @ fuse_user.weight.T + fuse_user.bias,
        torch.cat(items, 1) @ fuse_item.weight.T + fuse_item.bias,
    )


def dense_losses(model: SLMRec, modalities: int) -> dict[str, Tensor]:
    s = model.settings
    user, item = dense_vectors(model, modalities)
    pairs = [(u - 1, i - 1) for u, i in zip(*(BATCH[k].tolist() for k in BATCH), strict=True)]

    def cosine(x: Tensor, y: Tensor) -> Tensor:
        return x @ y / (x.norm() * y.norm())

    main = []
    for u, i in pairs:
        negatives = {j for _, j in pairs} - {j for v, j in pairs if v == u}
        total = sum((cosine(user[u], item[j]) / s.tau).exp() for j in {i} | negatives)
        main.append(-torch.log((cosine(user[u], item[i]) / s.tau).exp() / total))
    terms = {"main": torch.stack(main).mean()}
    if s.ssl_weight == 0:
        return terms

    _, streams = dense_streams(model, modalities)
    distinct = sorted({i for _, i in pairs})
    ids, ssl = streams[0], torch.zeros((), dtype=torch.float64)
    for step, head, modality in zip(
        model.network.steps, model.network.heads, streams[1:], strict=True
    ):
        ids = ids @ step.weight.T + step.bias
        there = modality @ head.weight.T + head.bias

        def similarity(i: int, j: int, ids: Tensor = ids, there: Tensor = there) -> Tensor:
            close = cosine(ids[i], there[j]) if s.ssl_similarity == "cosine" else ids[i] @ there[j]
            return (close / s.ssl_tau).exp()

        for i in distinct:
            total = sum(similarity(i, j) for j in distinct)
            ssl = ssl - torch.log(similarity(i, i) / total) / len(distinct)
    terms["ssl"] = s.ssl_weight * ssl
    return terms


CASES: list[dict[str, Any]] = [
    {},
    {"n_layers": 1},
    {"n_layers": 2},
    {"n_layers": 4},
    {"ssl_similarity": "cosine"},
    {"ssl_weight": 0.0},
]


@pytest.mark.parametrize("modalities", COUNTS)
@pytest.mark.parametrize("settings", CASES)
def test_losses_gradients_and_scores_are_the_equations(
    assert_scores: Callable[..., None],
    assert_losses: Callable[..., Any],
    build: Callable[..., SLMRec],
    settings: dict[str, Any],
    modalities: int,
) -> None:
    model = build(modalities, **settings)
    unused = settings.get("ssl_weight") == 0
    terms = dense_losses(model, modalities)
    gradients = assert_losses(model, BATCH, terms, allow_unused=unused)
    without = {name for name, gradient in gradients.items() if gradient is None}
    parts = {name for name in gradients if name.split(".")[1] in ("steps", "heads")}
    assert len(parts) == 4 * modalities
    assert without == (parts if unused else set())

    user, item = dense_vectors(model, modalities)
    assert_scores(model, user @ item.T)


def test_spaces_have_d_dimensions_and_half_of_them_for_the_last_of_several(
    build: Callable[..., SLMRec],
) -> None:
    def shapes(modalities: int) -> tuple[list[tuple[int, ...]], ...]:
        network = build(modalities).network
        return tuple(
            [tuple(layer.weight.shape) for layer in layers]
            for layers in (network.steps, network.heads)
        )

    assert shapes(1) == ([(6, 6)], [(6, 6)])
    assert shapes(2) == ([(6, 6), (3, 6)], [(6, 6), (3, 6)])
    assert shapes(3) == ([(6, 6), (6, 6), (3, 6)], [(6, 6), (6, 6), (3, 6)])
    build(2, embedding_size=1).calculate_loss(BATCH)


def test_texts_come_last() -> None:
    assert fine_to_coarse(["text", "video", "audio"]) == ["audio", "video", "text"]
    assert fine_to_coarse({"text-b": 0, "text-a": 0, "z": 0}) == ["z", "text-a", "text-b"]


def test_the_order_of_rows_and_repeated_rows_change_only_the_means(
    build: Callable[..., SLMRec],
) -> None:
    model = build()
    model.calculate_loss(BATCH)
    before = dict(model.last_losses)
    order = torch.tensor([7, 2, 0, 5, 1, 6, 4, 3])
    # Rows of the batch again, all of them: neither denominators nor distinct items change.
    for rows in (order, torch.cat([order, order])):
        model.calculate_loss({name: values[rows] for name, values in BATCH.items()})
        for name, value in before.items():
            torch.testing.assert_close(model.last_losses[name], value)


def test_length_of_features_does_not_matter() -> None:
    settings = SLMRecSettings(embedding_size=3)
    interactions = interaction_matrix(TRAIN["user_id"] - 1, TRAIN["item_id"] - 1, M, N)
    features = torch.randn(N, 4)
    lengths = torch.rand(N, 1) + 0.5
    losses = []
    for table in (features, features * lengths):
        torch.manual_seed(0)
        network = StreamEncoder(interactions, {"text": table}, settings)
        losses.append(network.losses(*(values - 1 for values in BATCH.values())))
    torch.testing.assert_close(losses[0], losses[1])


def test_negatives_are_neither_asked_for_nor_read(build: Callable[..., SLMRec]) -> None:
    assert SLMRec.input_type == InputType.POINTWISE
    model = build()
    loss = model.calculate_loss(BATCH)
    drawn = BATCH | {"neg_item_id": torch.full((len(BATCH["user_id"]),), 99)}
    assert model.calculate_loss(drawn) == loss
    assert build().batches == "interactions"
    assert build(sampling="users").batches == "user_uniform"


def test_parameters_start_xavier_uniform_with_zero_biases() -> None:
    interactions = interaction_matrix(TRAIN["user_id"] - 1, TRAIN["item_id"] - 1, M, N)
    features = {"text": torch.randn(N, 40), "image": torch.randn(N, 30)}
    torch.manual_seed(3)
    network = StreamEncoder(interactions, features, SLMRecSettings())
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
            continue
        bound = (6 / sum(parameter.shape)) ** 0.5
        if name.startswith("projections"):
            assert not parameter[:, -1].any()
        assert 0.9 * bound < parameter.abs().max() <= bound, name


def test_training_separates_what_users_like() -> None:
    torch.manual_seed(0)
    users = np.repeat(np.arange(12), 4)
    items = np.concatenate([np.random.default_rng(u).permutation(5)[:4] for u in range(12)])
    items += 5 * (users % 2)
    network = StreamEncoder(
        interaction_matrix(users, items, 12, 10),
        {"text": torch.randn(10, 6)},
        SLMRecSettings(embedding_size=8),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    rows = torch.from_numpy(users), torch.from_numpy(items)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.stack(list(network.losses(*rows).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    user, item = (F.normalize(table, dim=1) for table in network())
    scores = (user @ item.T).detach()
    own, other = scores[0::2, :5], scores[0::2, 5:]
    assert own.mean() > other.mean() + 0.5
