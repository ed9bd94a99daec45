from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_hellm.errors import ConfigError
from recbole_hellm.models.general.lattice import LATTICE, LATTICENetwork, LATTICESettings

M, N, K = 6, 7, 3
PAIRS = [(1, 1), (1, 2), (2, 2), (2, 3), (2, 5), (3, 1), (3, 3), (4, 6), (4, 2), (5, 4), (2, 2)]
# User 6 and item 7 are isolated.
BATCH = {
    "user_id": torch.tensor([2, 4, 1]),
    "item_id": torch.tensor([5, 6, 2]),
    "neg_item_id": torch.tensor([7, 1, 5]),
}
MODALITIES = {"text": 4, "image": 6}
RNG = np.random.default_rng(5)
TABLES = {
    name: RNG.normal(size=(N, width)).astype(np.float32) for name, width in MODALITIES.items()
}
SETTINGS = {"embedding_size": 5, "knn_k": K, "lambda_coeff": 0.6, "reg_weight": 0.3}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def build(build_model: Any, toy_dataset: Any) -> Callable[..., LATTICE]:
    def make(
        modalities: tuple[str, ...] = ("text", "image"),
        randomise: bool = True,
        scales: tuple[float, ...] = (1.0, 1.0),
        **settings: Any,
    ) -> LATTICE:
        tables = {
            name: TABLES[name] * scale for name, scale in zip(modalities, scales, strict=False)
        }
        dataset = toy_dataset(PAIRS, M, N, tables)
        model = build_model(LATTICE, dataset, redraw=randomise, **(SETTINGS | settings))
        if randomise:
            model.start_epoch()
        return model

    return make


# The paper's equations, with dense matrices -------------------------------------------------------


def structure(rows: Tensor, k: int, neighbours: list[list[int]] | None = None) -> Tensor:
    """Equations 2 to 4: cosine, negative entries to zero, top K of each row, normalisation."""
    cosine = (rows @ rows.T) / (rows.norm(dim=1)[:, None] * rows.norm(dim=1)[None])
    mask = torch.zeros(N, N)
    for i in range(N):
        best = np.argsort(-cosine[i].detach().numpy())[:k].tolist()
        for j in neighbours[i] if neighbours else best:
            mask[i, j] = 1.0
    sparse = torch.where(cosine > 0, cosine, 0.0) * mask
    degree = sparse.sum(1)
    return sparse / (degree[:, None] * degree[None]).sqrt()


def dense_vectors(
    model: Any, neighbours: list[list[list[int]]] | None = None
) -> tuple[Tensor, Tensor]:
    s, network = model.settings, model.network
    square = torch.zeros(M + N, M + N)
    for user, item in PAIRS:
        square[user - 1, M + item - 1] = square[M + item - 1, user - 1] = 1.0
    degree = square.sum(1)
    scale = torch.where(degree > 0, degree.clamp_min(1e-30) ** -0.5, 0.0)
    square = scale[:, None] * square * scale[None]
    layers = [torch.cat([network.user_table, network.item_table])]
    for _ in range(s.n_layers_ui):
        layers.append(square @ layers[-1])
    user, item = torch.stack(layers).mean(0).split([M, N])

    scores = network.importance.exp()
    total = torch.zeros(N, N)
    tables = list(TABLES.values())[: len(network.structures)]
    for m, table in enumerate(tables):
        raw = torch.from_numpy(table).double()
        graph = s.lambda_coeff * structure(raw, s.knn_k)
        if s.lambda_coeff < 1:
            projection = network.structures[m].projection
            # modality_tables scales the features, which the bias can tell.
            raw = raw / raw.square().mean().sqrt()
            if s.train_features:
                raw = network.structures[m].features
            projected = raw @ projection.weight.T + projection.bias
            near = neighbours[m] if neighbours else None
            graph = graph + (1 - s.lambda_coeff) * structure(projected, s.knn_k, near)
        total = total + scores[m] / scores.sum() * graph
    latent = network.item_table
    for _ in range(s.n_layers_i2i):
        latent = total @ latent
    return user, item + latent / latent.norm(dim=1, keepdim=True)


def dense_losses(model: Any) -> dict[str, Tensor]:
    user, item = dense_vectors(model)
    bpr, squares = [], []
    for u, i, j in zip(*(values.tolist() for values in BATCH.values()), strict=True):
        difference = user[u - 1] @ item[i - 1] - user[u - 1] @ item[j - 1]
        bpr.append(-torch.log(torch.sigmoid(difference)))
        squares += [row @ row for row in (user[u - 1], item[i - 1], item[j - 1])]
    regularisation = 0.5 * torch.stack(squares).sum() / len(bpr)
    return {
        "bpr": torch.stack(bpr).mean(),
        "reg": model.settings.reg_weight * regularisation,
    }


@pytest.mark.parametrize("modalities", [("text",), ("text", "image")])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lambda_coeff": 0.0},
        {"lambda_coeff": 1.0},
        {"n_layers_ui": 0, "n_layers_i2i": 2},
        {"n_layers_ui": 3, "knn_k": N},
        {"n_layers_i2i": 3, "knn_k": 2, "lambda_coeff": 0.2},
        {"train_features": True},
    ],
)
def test_losses_gradients_and_scores_are_the_equations(
    assert_scores: Callable[..., None],
    assert_losses: Callable[..., Any],
    build: Callable[..., LATTICE],
    modalities: tuple[str, ...],
    settings: dict[str, Any],
) -> None:
    model = build(modalities, **settings)
    gradients = assert_losses(model, BATCH, dense_losses(model))
    learned = model.settings.lambda_coeff < 1
    assert len(gradients) == 3 + (2 + model.settings.train_features) * len(modalities) * learned
    for name, gradient in gradients.items():
        alone = name.endswith("importance") and len(modalities) == 1
        assert bool(gradient.abs().sum() > 1e-9) != alone, name

    user, item = dense_vectors(model)
    assert_scores(model, user @ item.T)


def edges(model: Any) -> list[list[list[int]]]:
    return [part.learned.neighbours.tolist() for part in model.network.structures]


def everyone(model: Any) -> Tensor:
    return model.eval().full_sort_predict({"user_id": torch.arange(1, M + 1)})[:, 1:]


def change_projections(model: Any) -> None:
    torch.manual_seed(3)
    for part in model.network.structures:
        torch.nn.init.normal_(part.projection.weight)


def test_neighbours_stay_within_an_epoch_while_weights_follow_the_projection(
    build: Callable[..., LATTICE],
) -> None:
    model = build(("text", "image"))
    before = edges(model)
    change_projections(model)
    user, item = dense_vectors(model, before)
    torch.testing.assert_close(everyone(model), (user @ item.T).detach())
    assert edges(model) == before
    model.train()
    model.start_epoch()
    assert edges(model) != before
    user, item = dense_vectors(model)
    torch.testing.assert_close(everyone(model), (user @ item.T).detach())


def test_a_new_model_has_the_neighbours_of_its_first_projection(
    build: Callable[..., LATTICE],
) -> None:
    model = build(randomise=False)
    before = edges(model)
    for part in model.network.structures:
        assert (part.projection.bias == 0).all()
    model.start_epoch()
    assert edges(model) == before


def test_a_loaded_model_scores_the_same(build: Callable[..., LATTICE]) -> None:
    trained = build()
    change_projections(trained)  # as training does after the neighbours were found
    fresh = build(randomise=False)
    everyone(fresh)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(everyone(fresh), everyone(trained))
    found_anew = build(randomise=False)
    found_anew.load_state_dict(trained.state_dict())
    found_anew.start_epoch()
    assert not torch.allclose(everyone(found_anew), everyone(trained))


def test_state_holds_no_features_and_no_graph_made_from_data(build: Callable[..., LATTICE]) -> None:
    tables = {"network.user_table", "network.item_table", "network.importance"}
    parts = ("projection.weight", "projection.bias", "learned.neighbours")
    learned = {f"network.structures.{m}.{part}" for m in range(2) for part in parts}
    assert set(build().state_dict()) == tables | learned
    assert set(build(lambda_coeff=1.0).state_dict()) == tables


def test_without_the_learned_part_the_item_graph_is_fixed(build: Callable[..., LATTICE]) -> None:
    model = build(lambda_coeff=1.0)
    before = everyone(model)
    model.train()
    model.start_epoch()
    assert torch.equal(everyone(model), before)
    # An identity for a projection learns the raw features' graph. Cosines do not see the scale.
    learned = build(("text",), lambda_coeff=0.0, embedding_size=MODALITIES["text"])
    fixed = build(("text",), lambda_coeff=1.0, embedding_size=MODALITIES["text"])
    with torch.no_grad():
        projection = learned.network.structures[0].projection
        projection.weight.copy_(torch.eye(MODALITIES["text"]))
        projection.bias.zero_()
    learned.start_epoch()
    fixed.load_state_dict(learned.state_dict(), strict=False)
    torch.testing.assert_close(everyone(fixed), everyone(learned))


def test_the_scale_of_raw_features_does_not_matter(build: Callable[..., LATTICE]) -> None:
    model, other = build(), build(randomise=False, scales=(8.0, 0.25))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(everyone(other), everyone(model))


def test_an_item_without_interactions_is_placed_by_its_features(
    build: Callable[..., LATTICE],
) -> None:
    model = build()
    network = model.network
    _, plain = network.graph.light_gcn(network.user_table, network.item_table, 2)
    _, item = network()
    latent = item - plain
    torch.testing.assert_close(latent.norm(dim=1), torch.ones(N))
    # Item 7 has none: LightGCN gives it a third of its own embedding.
    torch.testing.assert_close(plain[6], network.item_table[6] / 3)


def test_features_with_a_row_of_zeros_train_without_nan() -> None:
    tables = {"text": torch.randn(N, 4), "image": torch.randn(N, 6)}
    for table in tables.values():
        table[2] = 0.0
    pairs = torch.tensor(PAIRS).T - 1
    values = np.ones(len(PAIRS))
    interactions = sp.csr_array((values, tuple(pairs.numpy())), shape=(M, N))
    settings = LATTICESettings(embedding_size=5, knn_k=K)
    network = LATTICENetwork(interactions, tables, settings)
    rows = (values - 1 for values in BATCH.values())
    sum(network.losses(*rows).values(), torch.zeros(())).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name


def test_tables_start_xavier_uniform_and_modalities_start_equal(
    build: Callable[..., LATTICE],
) -> None:
    network = build(randomise=False).network
    tables = [network.user_table, network.item_table]
    for table in [*tables, *(part.projection.weight for part in network.structures)]:
        bound = (6 / sum(table.shape)) ** 0.5
        assert 0.7 * bound < table.abs().max() <= bound
    assert (network.importance.softmax(0) == 0.5).all()


def test_more_neighbours_than_items_are_refused() -> None:
    interactions = sp.csr_array((M, N))
    with pytest.raises(ConfigError, match="knn_k=10"):
        LATTICENetwork(interactions, {"text": torch.randn(N, 2)}, LATTICESettings())
