from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_hellm.errors import ConfigError
from recbole_hellm.graph.bipartite import interaction_matrix
from recbole_hellm.graph.pruning import draw_without_replacement
from recbole_hellm.models.general.freedom import (
    FREEDOM,
    TwoGraphEncoder,
    mixing_weights,
)

M, N, K = 6, 7, 3
PAIRS = [(1, 1), (1, 2), (2, 2), (2, 3), (2, 5), (3, 1), (3, 3), (4, 6), (4, 2), (5, 4), (2, 2)]
EDGES = sorted(set(PAIRS))  # user 6 and item 7 are isolated
BATCH = {
    "user_id": torch.tensor([2, 4, 1, 6]),
    "item_id": torch.tensor([5, 6, 2, 1]),
    "neg_item_id": torch.tensor([7, 1, 5, 3]),
}
WEIGHTS = {"text": 0.7, "image": 0.3}
WIDTHS = {"text": 4, "image": 3}
RNG = np.random.default_rng(5)
TABLES = {name: RNG.normal(size=(N, width)).astype(np.float32) for name, width in WIDTHS.items()}
SETTINGS = {"embedding_size": 5, "knn_k": K, "pruning_ratio": 0.45, "reg_weight": 0.3}


def table(modality: str, blank: int | None = None) -> np.ndarray:
    """Raw features; the texts without those of item row `blank`."""
    rows = TABLES[modality].copy()
    if blank is not None and modality == "text":
        rows[blank] = 0.0
    return rows


@pytest.fixture
def build(build_model: Any, toy_dataset: Any) -> Callable[..., FREEDOM]:
    def make(*modalities: str, blank: int | None = None, **settings: Any) -> FREEDOM:
        dataset = toy_dataset(PAIRS, M, N, {name: table(name, blank) for name in modalities})
        shares = {"modality_weights": {name: WEIGHTS[name] for name in modalities}}
        return build_model(FREEDOM, dataset, **(SETTINGS | shares | settings))

    return make


def network_of(model: FREEDOM) -> TwoGraphEncoder:
    assert isinstance(model.network, TwoGraphEncoder)
    return model.network


# The paper's equations, with dense matrices -------------------------------------------------------


def features(modality: str, blank: int | None = None) -> Tensor:
    """Raw features, divided by their root mean square."""
    rows = torch.from_numpy(table(modality, blank)).double()
    return rows / (sum(float(x) ** 2 for x in rows.flatten()) / rows.numel()) ** 0.5


def frozen_graph(modalities: tuple[str, ...], blank: int | None = None) -> Tensor:
    """Binary nearest neighbours, itself included, normalised by row sums and mixed."""
    graph = torch.zeros(N, N, dtype=torch.float64)
    total = sum(WEIGHTS[name] for name in modalities)
    for name in modalities:
        rows = features(name, blank)
        near = torch.zeros(N, N, dtype=torch.float64)
        norms = rows.norm(dim=1)
        for i in range(N):
            cosine = [
                float(rows[i] @ rows[j] / (norms[i] * norms[j])) if norms[i] * norms[j] > 0 else 0.0
                for j in range(N)
            ]
            for j in sorted(range(N), key=lambda j: -cosine[j])[:K]:
                near[i, j] = float(cosine[j] != 0)
        degree = near.sum(1)
        for i in range(N):
            for j in range(N):
                if near[i, j]:
                    graph[i, j] += (
                        WEIGHTS[name] / total * near[i, j] / (degree[i] * degree[j]) ** 0.5
                    )
    return graph


def dense_vectors(
    model: FREEDOM, edges: list[tuple[int, int]], blank: int | None = None
) -> tuple[Tensor, Tensor]:
    s, network = model.settings, network_of(model)
    square = torch.zeros(M + N, M + N, dtype=torch.float64)
    for u, i in edges:
        square[u - 1, M + i - 1] = square[M + i - 1, u - 1] = 1.0
    degree = square.sum(1)
    scale = torch.where(degree > 0, degree.clamp_min(1) ** -0.5, 0.0)
    square = scale[:, None] * square * scale[None]
    layers = [torch.cat([network.user_table, network.item_table])]
    for _ in range(s.n_layers_ui):
        layers.append(square @ layers[-1])
    user, item = torch.stack(layers).mean(0).split([M, N])
    step = frozen_graph(network.modalities, blank)
    return user, item + torch.linalg.matrix_power(step, s.n_layers_i2i) @ network.item_table


def dense_losses(
    model: FREEDOM, edges: list[tuple[int, int]], blank: int | None = None
) -> dict[str, Tensor]:
    user, item = dense_vectors(model, edges, blank)
    tables, weights = {"bpr": item}, {"bpr": 1.0}
    for name in network_of(model).modalities:
        # The paper's projection with its bias, whatever that is.
        projection = getattr(model.network, f"{name}_projection")
        bias = torch.linspace(-2, 3, projection.shape[1], dtype=torch.float64)
        raw = features(name, blank)
        if model.settings.train_features:
            raw = getattr(model.network, f"{name}_features")
        tables[f"bpr_{name}"] = raw @ projection + bias
        weights[f"bpr_{name}"] = model.settings.reg_weight
    terms = {}
    for term, table in tables.items():
        losses = []
        for u, i, j in zip(*(column.tolist() for column in BATCH.values()), strict=True):
            margin = user[u - 1] @ table[i - 1] - user[u - 1] @ table[j - 1]
            losses.append(-torch.log(torch.sigmoid(margin)))
        terms[term] = weights[term] * torch.stack(losses).mean()
    return terms


def literal_draw(ratio: float) -> list[tuple[int, int]]:
    """The interactions that an epoch keeps, from torch's present state."""
    weights = []
    for user, item in EDGES:
        degrees = [
            sum(edge[side] == node for edge in EDGES) for side, node in enumerate((user, item))
        ]
        weights.append(1 / (math.sqrt(degrees[0]) * math.sqrt(degrees[1])))
    size = len(EDGES) - math.floor(ratio * len(EDGES))
    drawn = draw_without_replacement(torch.tensor(weights, dtype=torch.float64), size)
    return [EDGES[index] for index in drawn]


CASES: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("text",), {}),
    (("text", "image"), {}),
    (("image", "text"), {"n_layers_ui": 3, "n_layers_i2i": 2}),
    (("text", "image"), {"n_layers_ui": 0, "n_layers_i2i": 0}),
    (("text",), {"pruning_ratio": 0.85, "reg_weight": 0.0}),
    (("text", "image"), {"blank": 2}),
    (("text", "image"), {"train_features": True}),
]


@pytest.mark.parametrize(("modalities", "settings"), CASES)
def test_losses_gradients_and_scores_are_the_equations(
    assert_scores: Callable[..., None],
    assert_losses: Callable[..., Any],
    build: Callable[..., FREEDOM],
    modalities: tuple[str, ...],
    settings: dict[str, Any],
) -> None:
    model, blank = build(*modalities, **settings), settings.get("blank")
    torch.manual_seed(4)
    drawn = literal_draw(model.settings.pruning_ratio)
    torch.manual_seed(4)
    model.start_epoch()
    gradients = assert_losses(model, BATCH, dense_losses(model, drawn, blank))
    assert len(gradients) == 2 + (1 + model.settings.train_features) * len(modalities)

    user, item = dense_vectors(model, EDGES, blank)
    assert_scores(model, user @ item.T)


def test_each_epoch_draws_anew_and_evaluation_never_sees_it(build: Callable[..., FREEDOM]) -> None:
    model = build("text")
    torch.manual_seed(0)
    drawn, scores = set(), []
    for _ in range(8):
        model.start_epoch()
        drawn.add(model.calculate_loss(BATCH).item())
        model.eval()
        scores.append(model.full_sort_predict(BATCH))
        model.train()
    assert len(drawn) > 3
    assert all(torch.equal(score, scores[0]) for score in scores)


def test_nodes_without_kept_interactions_get_their_own_vectors_only(
    build: Callable[..., FREEDOM],
) -> None:
    model = build("text", n_layers_ui=2, pruning_ratio=0.85)
    network = network_of(model)
    torch.manual_seed(1)
    drawn = literal_draw(0.85)
    torch.manual_seed(1)
    model.start_epoch()
    with torch.no_grad():
        user, table = network()[0], network.user_table
        alone = [u for u in range(1, M + 1) if all(u != pair[0] for pair in drawn)]
        assert set(alone) > {6}  # pruning isolates more than user 6
        for u in alone:
            torch.testing.assert_close(user[u - 1], table[u - 1] / 3)


def test_nothing_pruned_is_the_full_graph_and_draws_nothing(build: Callable[..., FREEDOM]) -> None:
    model = build("text", pruning_ratio=0.0)
    before = torch.get_rng_state()
    model.start_epoch()
    assert torch.equal(torch.get_rng_state(), before)
    for name, term in dense_losses(model, EDGES).items():
        model.calculate_loss(BATCH)
        torch.testing.assert_close(model.last_losses[name], term.detach())


def test_a_resumed_run_repeats_the_draw(build: Callable[..., FREEDOM]) -> None:
    first, second = build("text"), build("text")
    first.start_epoch()
    state, generator = first.state_dict(), torch.get_rng_state()
    first.start_epoch()
    loss = first.calculate_loss(BATCH)

    torch.manual_seed(99)
    second.start_epoch()
    second.load_state_dict(state)
    torch.set_rng_state(generator)
    second.start_epoch()
    assert torch.equal(second.calculate_loss(BATCH), loss)


def test_features_are_fixed_and_their_scale_does_not_matter(build: Callable[..., FREEDOM]) -> None:
    model, loud = build("text"), build("text")
    assert not any("features" in name for name, _ in model.named_parameters())
    louder = {"text": SimpleNamespace(matrix=50 * TABLES["text"])}
    users, items = np.array(EDGES).T - 1
    interactions = interaction_matrix(users, items, M, N)
    dataset = SimpleNamespace(item_features=lambda: louder)
    loud.network = loud.build(interactions, dataset).double()
    loud.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        loud.calculate_loss(BATCH), model.calculate_loss(BATCH), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    ("modalities", "given", "expected"),
    [
        (["text", "image"], None, {"text": 0.9, "image": 0.1}),
        (["text"], None, {"text": 1.0}),
        (["image"], None, {"image": 1.0}),
        (["sound"], None, {"sound": 1.0}),
        (["text", "image", "sound"], None, {"text": 0.45, "image": 0.1, "sound": 0.45}),
        (["text", "sound"], None, {"text": 0.5, "sound": 0.5}),
        (["text", "image"], {}, {"text": 0.5, "image": 0.5}),
        (["text", "image"], {"text": 1, "image": 3}, {"text": 0.25, "image": 0.75}),
        (["text", "image"], {"text": 1.0}, {"text": 1.0, "image": 0.0}),
        (["text"], {"text": 0.2}, {"text": 1.0}),
    ],
)
def test_modalities_share_the_item_graph(
    modalities: list[str], given: dict[str, float] | None, expected: dict[str, float]
) -> None:
    assert mixing_weights(modalities, given) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"imge": 0.1}, "'imge'.*text, image"),
        ({"image": 1.5}, "sum to 1.5.*text"),
        ({"image": 0.0, "text": 0.0}, "more than 0"),
    ],
)
def test_weights_that_do_not_fit_the_features_are_named(
    build: Callable[..., FREEDOM], given: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"modality_weights.*{message}"):
        build("text", "image", modality_weights=given)
