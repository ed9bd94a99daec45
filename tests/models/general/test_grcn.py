from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_hellm.models.general.grcn import (
    GRCN,
    GraphRefinedNetwork,
    GRCNSettings,
    PrototypicalNetwork,
    unit_rows,
)

M, N, D = 6, 7, 5
SEED = 7  # with it, edges are kept and pruned in both directions, and both modalities win
PAIRS = [(1, 1), (1, 2), (2, 2), (2, 3), (2, 5), (3, 1), (3, 3), (4, 6), (4, 2), (5, 4), (2, 2)]
EDGES = sorted({(user - 1, item - 1) for user, item in PAIRS})
# User 6 and item 7 are isolated; user 2 and item 5 occur twice in the batch.
BATCH = {
    "user_id": torch.tensor([2, 4, 1, 2]),
    "item_id": torch.tensor([5, 6, 2, 3]),
    "neg_item_id": torch.tensor([7, 1, 5, 4]),
}
MODALITIES = {"text": 4, "image": 3}
RNG = np.random.default_rng(5)
TABLES = {name: RNG.normal(size=(N, width)) for name, width in MODALITIES.items()}
SETTINGS = {"embedding_size": D, "reg_weight": 0.3, "seed": SEED, "normalise_ids": False}


@pytest.fixture
def build(build_model: Any, toy_dataset: Any) -> Callable[..., GRCN]:
    def make(modalities: tuple[str, ...] = ("text", "image"), **settings: Any) -> GRCN:
        dataset = toy_dataset(PAIRS, M, N, {name: TABLES[name] for name in modalities})
        return build_model(GRCN, dataset, **(SETTINGS | settings))

    return make


# The paper's equations, node by node --------------------------------------------------------------


def items_of(user: int) -> list[int]:
    return [i for u, i in EDGES if u == user]


def users_of(item: int) -> list[int]:
    return [u for u, i in EDGES if i == item]


def softmax(logits: dict[int, Tensor]) -> dict[int, Tensor]:
    total = sum(logit.exp() for logit in logits.values())
    return {node: logit.exp() / total for node, logit in logits.items()}


def literal_modality(network: PrototypicalNetwork, table: np.ndarray, rounds: int) -> Any:
    """Refined features of users and items, and confident affinities by (receiver, sender)."""
    x = torch.from_numpy(table / np.sqrt((table**2).mean()))
    f = []
    for i in range(N):
        hidden = network.weight @ x[i] + network.bias
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        f.append(hidden / hidden.norm())
    p = [network.preference[u] / network.preference[u].norm() for u in range(M)]
    for _ in range(rounds):
        for u in range(M):
            alpha = softmax({i: p[u] @ f[i] for i in items_of(u)})
            routed = p[u] + sum(alpha[i] * f[i] for i in items_of(u))
            p[u] = routed / routed.norm()
    users, items, to_users, to_items = [], [], {}, {}
    for u in range(M):
        alpha = softmax({i: p[u] @ f[i] for i in items_of(u)})
        users.append(p[u] + sum(alpha[i] * f[i] for i in items_of(u)))
        for i in items_of(u):
            to_users[u, i] = network.item_confidence[i] * alpha[i]
    for i in range(N):
        beta = softmax({u: p[u] @ f[i] for u in users_of(i)})
        items.append(f[i] + sum(beta[u] * p[u] for u in users_of(i)))
        for u in users_of(i):
            to_items[i, u] = network.user_confidence[u] * beta[u]
    return torch.stack(users), torch.stack(items), to_users, to_items


def literal_vectors(model: GRCN) -> tuple[Tensor, Tensor]:
    s, net = model.settings, model.network
    refined = [
        literal_modality(network, TABLES[name], s.n_routings)
        for name, network in net.modalities.items()
    ]
    zero = torch.zeros((), dtype=torch.float64)
    users, items = [net.user_table], [net.item_table]
    if s.normalise_ids:
        users, items = [
            [torch.stack([row / row.norm() for row in tables[0]])] for tables in (users, items)
        ]
    for _ in range(s.n_layers):
        user, item = [], []
        for u in range(M):
            messages = [torch.zeros(D, dtype=torch.float64)]
            for i in items_of(u):
                weight = torch.stack([zero, max(one[2][u, i] for one in refined)]).max()
                messages.append(weight * items[-1][i])
            user.append(torch.stack(messages).sum(0))
        for i in range(N):
            messages = [torch.zeros(D, dtype=torch.float64)]
            for u in users_of(i):
                weight = torch.stack([zero, max(one[3][i, u] for one in refined)]).max()
                messages.append(weight * users[-1][u])
            item.append(torch.stack(messages).sum(0))
        users.append(torch.stack(user))
        items.append(torch.stack(item))
    return (
        torch.cat([torch.stack(users).sum(0), *(one[0] for one in refined)], 1),
        torch.cat([torch.stack(items).sum(0), *(one[1] for one in refined)], 1),
    )


def literal_losses(model: GRCN) -> dict[str, Tensor]:
    net, (user_vectors, item_vectors) = model.network, literal_vectors(model)
    scores = user_vectors @ item_vectors.T
    bpr, squares = [], []
    for u, i, j in zip(*((values - 1).tolist() for values in BATCH.values()), strict=True):
        bpr.append(-torch.log(torch.sigmoid(scores[u, i] - scores[u, j])))
        vectors = [net.user_table[u], net.item_table[i], net.item_table[j]]
        vectors += [network.preference[u] for network in net.modalities.values()]
        squares += [vector @ vector for vector in vectors]
    reg = model.settings.reg_weight * 0.5 * torch.stack(squares).sum() / len(bpr)
    return {"bpr": torch.stack(bpr).mean(), "reg": reg}


CASES: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("text", "image"), {}),
    (("text", "image"), {"normalise_ids": True}),
    (("text",), {"normalise_ids": True, "n_layers": 1}),
    (("text",), {}),
    (("text", "image"), {"n_layers": 0, "n_routings": 0}),
    (("image",), {"n_layers": 1, "n_routings": 1}),
    (("image", "text"), {"n_layers": 3, "n_routings": 2, "reg_weight": 0.0}),
]


@pytest.mark.parametrize(("modalities", "settings"), CASES)
def test_losses_gradients_and_scores_are_the_equations(
    assert_scores: Callable[..., None],
    assert_losses: Callable[..., Any],
    build: Callable[..., GRCN],
    modalities: tuple[str, ...],
    settings: dict[str, Any],
) -> None:
    model = build(modalities, **settings)
    arguments = {"allow_unused": True, "materialize_grads": True}
    gradients = assert_losses(model, BATCH, literal_losses(model), **arguments)
    assert len(gradients) == 2 + 5 * len(modalities)

    user, item = literal_vectors(model)
    assert_scores(model, user @ item.T)
    exported = model.export_embeddings()
    assert exported["user"].shape == (M + 1, D * (1 + len(modalities)))
    torch.testing.assert_close(exported["item"][1:], item.detach())


def test_the_toy_graph_has_kept_and_pruned_edges_in_both_directions(
    build: Callable[..., GRCN],
) -> None:
    """Else the equations' maximum and ReLU would not be tested."""
    net = build().network
    refined = [network(net.edges) for network in net.networks()]
    for weights in (
        torch.stack([one.to_users for one in refined]),
        torch.stack([one.to_items for one in refined]),
    ):
        trusted = weights.amax(0) > 0
        assert trusted.any() and not trusted.all()
        assert len(set(weights.argmax(0)[trusted].tolist())) == 2


def test_routing_moves_prototypes_of_users_with_items_only(build: Callable[..., GRCN]) -> None:
    parts = {rounds: build(n_routings=rounds).network.parts()[1][0] for rounds in (0, 1)}
    moved = (parts[0] - parts[1]).abs().amax(1) > 1e-6
    assert moved.tolist() == [True] * 5 + [False]


def test_isolated_nodes_keep_their_own_vectors(build: Callable[..., GRCN]) -> None:
    net = build().network
    (user, item), (content_user, _), _ = net.parts()
    torch.testing.assert_close(user[5], net.user_table[5])
    torch.testing.assert_close(item[6], net.item_table[6])
    preference = net.modalities["text"].preference[5]
    torch.testing.assert_close(content_user[5], preference / preference.norm())


def test_nothing_flows_from_a_node_that_no_modality_trusts(build: Callable[..., GRCN]) -> None:
    net = build().network
    with torch.no_grad():
        for network in net.modalities.values():
            network.item_confidence[1] = -1.0
    user, item = net.parts()[0]
    of_table = torch.autograd.grad(user.sum(), net.item_table, retain_graph=True)[0]
    assert of_table[1].abs().sum() == 0
    of_itself = torch.autograd.grad(item[1].sum(), net.item_table)[0]
    assert of_itself[1].tolist() == [1.0] * D


def test_one_modality_that_trusts_a_node_is_enough(build: Callable[..., GRCN]) -> None:
    net = build().network
    with torch.no_grad():
        for name, confidence in (("text", 0.7), ("image", -1.0)):
            net.modalities[name].item_confidence.fill_(confidence)
    to_users = net.modalities["text"](net.edges).to_users
    torch.testing.assert_close(
        net.edges.softmax_left(to_users.log()), to_users / 0.7
    )  # affinities sum to 1 for each user
    user = net.parts()[0][0]
    gradient = torch.autograd.grad(user[4].sum(), net.item_table)[0]
    # User 5's only item; it passes on what it is, weighted by the trust.
    assert gradient[3].gt(0.69).all()


def test_only_the_direction_of_a_preference_counts(build: Callable[..., GRCN]) -> None:
    model = build()
    before = model.network()
    with torch.no_grad():
        for network in model.network.modalities.values():
            network.preference.mul_(torch.rand(M, 1, dtype=torch.float64) + 0.5)
    for one, other in zip(before, model.network(), strict=True):
        torch.testing.assert_close(one, other)


def test_order_of_modalities_does_not_change_scores(build: Callable[..., GRCN]) -> None:
    model, other = build(("text", "image")), build(("image", "text"))
    other.load_state_dict(model.state_dict())
    (user, item), (other_user, other_item) = model.network(), other.network()
    torch.testing.assert_close(user @ item.T, other_user @ other_item.T)


def test_evaluation_uses_the_weights_of_the_moment(build: Callable[..., GRCN]) -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    everyone = {"user_id": torch.arange(1, M + 1)}
    before = model.eval().full_sort_predict(everyone)
    model.train()
    model.calculate_loss(BATCH).backward()
    optimizer.step()
    after = model.eval().full_sort_predict(everyone)
    assert not torch.equal(before[:, 1:], after[:, 1:])
    user, item = literal_vectors(model)
    torch.testing.assert_close(after[:, 1:], (user @ item.T).detach())


def test_unit_rows() -> None:
    torch.manual_seed(0)
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_rows(rows), rows / rows.norm(dim=1, keepdim=True))
    assert torch.autograd.gradcheck(unit_rows, (rows,))
    zero = torch.zeros(2, 3, requires_grad=True)
    unit_rows(zero).sum().backward()
    assert zero.grad is not None and zero.grad.abs().sum() == 0


def test_an_item_without_features_is_finite_from_the_start() -> None:
    features = {"text": torch.cat([torch.zeros(2, 4), torch.randn(N - 2, 4)])}
    users, items = (list(side) for side in zip(*EDGES, strict=True))
    graph = sp.csr_array((np.ones(len(users)), (users, items)), shape=(M, N))
    net = GraphRefinedNetwork(graph, features, GRCNSettings(embedding_size=D))
    rows = (torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([1, 4]))
    torch.stack(list(net.losses(*rows).values())).sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() < 10
