from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.models.general.bm3 import BM3

M, N, D = 5, 6, 7
# User 5 and item 6 are isolated; (2, 2) occurs twice.
PAIRS = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 1), (3, 4), (4, 5), (4, 2), (2, 2)]
# A pair of the isolated nodes, a user twice, an item twice.
BATCH = {"user_id": torch.tensor([2, 5, 1, 2]), "item_id": torch.tensor([3, 6, 2, 2])}
# In the order of listing, which is not that of the names.
WIDTHS = {"text": 4, "image": 3}
RNG = np.random.default_rng(5)
TABLES = {
    name: 7 * RNG.normal(size=(N, width)).astype(np.float32) for name, width in WIDTHS.items()
}
SETTINGS = {
    "embedding_size": D,
    "n_layers": 2,
    "dropout": 0.4,
    "cl_weight": 0.7,
    "reg_weight": 0.3,
}


@pytest.fixture
def build(build_model: Any, toy_dataset: Any) -> Callable[..., BM3]:
    def make(modalities: tuple[str, ...] = ("text", "image"), **settings: Any) -> BM3:
        dataset = toy_dataset(PAIRS, M, N, {name: TABLES[name] for name in modalities})
        return build_model(BM3, dataset, **(SETTINGS | settings))

    return make


def weights(model: BM3, modalities: tuple[str, ...]) -> dict[str, Tensor]:
    """The trained weights by the paper's names, and by modality."""
    network, names = model.network, sorted(modalities)
    linear = dict(zip(names, (part.linear for part in network.modalities), strict=True))
    return {
        "user": network.user_table,
        "item": network.item_table,
        "W_p": network.predictor.weight,
        "b_p": network.predictor.bias,
        **{f"W_{name}": linear[name].weight for name in names},
        **{f"b_{name}": linear[name].bias for name in names},
        **{
            f"f_{name}": part.features
            for name, part in zip(names, network.modalities, strict=True)
            if isinstance(part.features, torch.nn.Parameter)
        },
    }


# The paper's equations, with dense matrices and row by row ----------------------------------------


def literal_online(w: dict[str, Tensor], layers: int) -> tuple[Tensor, Tensor]:
    """h of all users and all items."""
    square = torch.zeros(M + N, M + N, dtype=torch.float64)
    for user, item in PAIRS:
        square[user - 1, M + item - 1] = square[M + item - 1, user - 1] = 1.0
    degree = square.sum(1)
    scale = torch.where(degree > 0, degree.clamp_min(1) ** -0.5, 0.0)
    square = scale[:, None] * square * scale[None]
    stack = [torch.cat([w["user"], w["item"]])]
    for _ in range(layers):
        stack.append(square @ stack[-1])
    user, item = torch.stack(stack).mean(0).split([M, N])
    return user, item + w["item"]


def literal_cosine(a: Tensor, b: Tensor) -> Tensor:
    return -(a @ b) / (a @ a).sqrt() / (b @ b).sqrt()


def literal_losses(
    model: BM3, modalities: tuple[str, ...], keep: dict[str, Tensor]
) -> dict[str, Tensor]:
    """All terms; `keep` has the entries of the targets that dropout leaves, [B, d] each."""
    s, w = model.settings, weights(model, modalities)
    all_users, all_items = literal_online(w, s.n_layers)
    terms: dict[str, Any] = {"rec": 0.0, "align": 0.0, "mask": 0.0, "reg": 0.0}

    def predict(h: Tensor) -> Tensor:
        return w["W_p"] @ h + w["b_p"]

    size = len(BATCH["user_id"])
    for row in range(size):
        user, item = int(BATCH["user_id"][row]) - 1, int(BATCH["item_id"][row]) - 1
        h_u, h_i = all_users[user], all_items[item]
        dot_u, dot_i = h_u.detach() * keep["user"][row], h_i.detach() * keep["item"][row]
        terms["rec"] += literal_cosine(predict(h_u), dot_i) + literal_cosine(predict(h_i), dot_u)
        terms["reg"] += s.reg_weight * (h_u @ h_u + h_i @ h_i)
        for name in modalities:
            table = torch.from_numpy(TABLES[name]).double()
            table = w[f"f_{name}"] if s.train_features else table / (table**2).mean() ** 0.5
            f = table[item]
            h_m = w[f"W_{name}"] @ f + w[f"b_{name}"]
            dot_m = h_m.detach() * keep[name][row]
            terms["align"] += s.cl_weight * literal_cosine(predict(h_m), dot_i)
            terms["mask"] += s.cl_weight * literal_cosine(predict(h_m), dot_m)
    return {name: term / size for name, term in terms.items()}


def drawn(model: BM3, modalities: tuple[str, ...], seed: int) -> dict[str, Tensor]:
    """What dropout keeps after this seed: users, items, then modalities by name."""
    torch.manual_seed(seed)
    ones = torch.ones(len(BATCH["user_id"]), D, dtype=torch.float64)
    p = model.settings.dropout
    return {
        name: (F.dropout(ones, p) > 0).double() for name in ("user", "item", *sorted(modalities))
    }


@pytest.mark.parametrize("modalities", [("text", "image"), ("text",)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_layers": 1, "dropout": 0.0},
        {"n_layers": 0, "cl_weight": 2.0},
        {"train_features": True},
    ],
)
def test_losses_gradients_and_scores_are_the_equations(
    assert_scores: Callable[..., None],
    assert_losses: Callable[..., Any],
    build: Callable[..., BM3],
    modalities: tuple[str, ...],
    settings: dict[str, Any],
) -> None:
    model = build(modalities, **settings)
    keep = drawn(model, modalities, seed=3)
    # Every target keeps some entry and, with dropout, some target loses one.
    assert all((mask.sum(1) > 0).all() for mask in keep.values())
    assert (min(mask.min() for mask in keep.values()) == 0) == (model.settings.dropout > 0)
    torch.manual_seed(3)
    gradients = assert_losses(model, BATCH, literal_losses(model, modalities, keep))
    assert len(gradients) == 4 + (2 + model.settings.train_features) * len(modalities)
    w = weights(model, modalities)
    user, item = (h @ w["W_p"].T + w["b_p"] for h in literal_online(w, model.settings.n_layers))
    assert_scores(model, user @ item.T)


def test_features_are_pulled_to_items_and_not_items_to_features(build: Callable[..., BM3]) -> None:
    network = build().network
    terms = network.losses(*(ids - 1 for ids in BATCH.values()))
    reached = torch.autograd.grad(
        terms["align"] + terms["mask"], list(network.parameters()), allow_unused=True
    )
    names = [name for name, _ in network.named_parameters()]
    unreached = {name for name, part in zip(names, reached, strict=True) if part is None}
    assert unreached == {"user_table", "item_table"}


def test_cosines_of_matching_vectors_are_minus_one_each(build: Callable[..., BM3]) -> None:
    """The least value: two terms of L_rec, and w for each modality in L_align and in L_mask."""
    model = build(n_layers=0, dropout=0.0, reg_weight=0.0, cl_weight=0.5)
    network = model.network
    with torch.no_grad():
        network.predictor.weight.copy_(torch.eye(D))
        network.predictor.bias.zero_()
        network.user_table.fill_(2.0)
        network.item_table.fill_(3.0)
        for modality in network.modalities:
            modality.linear.weight.zero_()
            modality.linear.bias.fill_(0.1)
    assert model.calculate_loss(BATCH).item() == pytest.approx(-2 - 0.5 * 2 - 0.5 * 2)


def test_evaluation_does_not_drop_out_and_training_does(build: Callable[..., BM3]) -> None:
    model = build()
    rows = [ids - 1 for ids in BATCH.values()]
    training = [sum(model.network.losses(*rows).values()).item() for _ in range(2)]
    assert training[0] != training[1]
    model.eval()
    evaluation = [sum(model.network.losses(*rows).values()).item() for _ in range(2)]
    assert evaluation[0] == evaluation[1]


def test_negatives_of_uniform_users_are_ignored(build: Callable[..., BM3]) -> None:
    model = build(sampling="users")
    assert model.batches == "user_uniform"
    torch.manual_seed(3)
    loss = model.calculate_loss(BATCH)
    torch.manual_seed(3)
    more = model.calculate_loss(BATCH | {"neg_item_id": torch.tensor([1, 4, 5, 1])})
    assert torch.equal(loss, more)


def test_weights_fit_whatever_the_order_of_modalities(build: Callable[..., BM3]) -> None:
    first, second = build(("text", "image")), build(("image", "text"))
    second.load_state_dict(first.state_dict())
    losses = []
    for model in (first, second):
        torch.manual_seed(3)
        losses.append(model.calculate_loss(BATCH))
    assert torch.equal(losses[0], losses[1])


def test_a_run_goes_once_over_the_interactions_without_negatives(
    make_parts: Callable[..., Any],
) -> None:
    config, dataset, parts = make_parts("BM3", train_batch_size=32)
    model = BM3(config, parts[0])
    rows = parts[0].inter_feat
    expected = sorted(zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True))
    seen = []
    for batch in training_loader(config, dataset, parts, model):
        assert torch.isfinite(model.calculate_loss(batch))
        seen += zip(batch["user_id"].tolist(), batch["item_id"].tolist(), strict=True)
    assert sorted(seen) == expected
