from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_hellm.data.interactions.loaders import HistoryLoader, training_loader
from recbole_hellm.errors import ConfigError
from recbole_hellm.models.sequential.base import NextItemRecommender, SequentialSettings


class Sum(nn.Module):
    """A layer that adds all states before a place, so that places and order matter."""

    def forward(self, states: Tensor, _mask: Tensor, places: slice) -> Tensor:
        return states.cumsum(1)[:, places] / 2


class Plain(NextItemRecommender):
    settings_classes = (SequentialSettings,)

    def layer(self) -> nn.Module:
        return Sum()


@pytest.fixture
def make(make_parts: Callable[..., Any]) -> Callable[..., Any]:
    def build(**options: Any) -> tuple[Plain, Any, Any, list[Any]]:
        small = {"hidden_size": 6, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 5}
        config, dataset, parts = make_parts("BSARec", **small | options)
        torch.manual_seed(3)
        return Plain(config, parts[0]).double().eval(), config, dataset, parts

    return build


def literal(model: Plain, history: list[int]) -> Tensor:
    """The state of one history: padded on the left, embedded, normed, summed up."""
    places = model.max_seq_length
    items = [0] * (places - len(history)) + history
    state = torch.zeros(6, dtype=torch.float64)
    for place, item in enumerate(items):
        x = model.item_embedding.weight[item] + model.position_embedding.weight[place]
        spread = ((x - x.mean()) ** 2).mean() + model.settings.layer_norm_eps
        state = state + (x - x.mean()) / spread.sqrt()
    return state / 2


def test_states_are_those_of_histories_padded_on_the_left(make: Callable[..., Any]) -> None:
    model, *_ = make()
    histories = [[3, 1, 4, 1, 5], [9], [2, 6]]
    rows = torch.tensor([history + [0] * (5 - len(history)) for history in histories])
    lengths = torch.tensor([5, 1, 2])
    states = model(rows, lengths)
    torch.testing.assert_close(states, torch.stack([literal(model, h) for h in histories]))
    # Batches that are cut to their longest history give the same.
    torch.testing.assert_close(model(rows[1:, :2], lengths[1:]), states[1:])


def test_an_empty_history_is_padding_at_all_places(make: Callable[..., Any]) -> None:
    model, config, dataset, parts = make(first_item_target=True)
    expected = literal(model, [])
    rows = torch.tensor([[0, 0, 0], [2, 6, 0]])
    torch.testing.assert_close(model(rows, torch.tensor([1, 2]))[0], expected)
    loader = training_loader(config, dataset, parts, model)
    batch = next(batch for batch in loader if not batch["item_id_list"][:, 0].all())
    row = int(batch["item_id_list"][:, 0].argmin())
    scores = expected @ model.item_embedding.weight.T
    torch.testing.assert_close(model.full_sort_predict(batch)[row], scores.detach())


def test_loss_and_scores_are_of_products_with_all_items(make: Callable[..., Any]) -> None:
    model, config, dataset, parts = make()
    loader = training_loader(config, dataset, parts, model)
    assert isinstance(loader, HistoryLoader)
    batch = next(iter(loader))
    lengths = batch["item_length"].tolist()
    rows = zip(batch["item_id_list"].tolist(), lengths, strict=True)
    states = torch.stack([literal(model, row[:length]) for row, length in rows])
    scores = states @ model.item_embedding.weight.T
    logs = [
        -torch.log_softmax(row, 0)[target]
        for row, target in zip(scores, batch["item_id"], strict=True)
    ]
    torch.testing.assert_close(model.calculate_loss(batch), torch.stack(logs).mean())
    torch.testing.assert_close(model.full_sort_predict(batch), scores.detach())
    asked = Interaction({**batch.interaction, "item_id": torch.full((len(batch),), 2)})
    torch.testing.assert_close(model.predict(asked), scores[:, 2].detach())


def test_weights_start_as_the_settings_say(make: Callable[..., Any]) -> None:
    model, *_ = make(initializer_range=0.5, hidden_size=64)
    assert 0.45 < float(model.item_embedding.weight.detach().std()) < 0.55
    assert bool(model.item_embedding.weight[0].any())  # padding's too, as the authors have it
    assert torch.equal(model.norm.weight, torch.ones(64, dtype=torch.float64))


def test_padding_is_not_trained(make: Callable[..., Any]) -> None:
    model, *_ = make()
    states = model(torch.tensor([[3, 1]]), torch.tensor([2]))
    (states * torch.arange(6)).sum().backward()
    gradient = model.item_embedding.weight.grad
    assert not gradient[0].any()
    assert gradient[3].any()


def test_heads_divide_the_width(make: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="hidden_size=6 must be a multiple of n_heads=4"):
        make(n_heads=4)
