from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from recbole_hellm.models.llm.masks import causal, layer_masks

KEYS = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
POSITIONS = torch.tensor([[2, 3, 0, 4, 5], [2, 3, 4, 5, 6]])
SHARED = torch.tensor([0, 1])
PREFIX = 3


def literal(window: int | None) -> Tensor:
    mask = torch.zeros(2, 1, 5, PREFIX + 2 + 5, dtype=torch.bool)
    for row in range(2):
        for query in range(5):
            mask[row, 0, query, :PREFIX] = True
            places = [*SHARED.tolist(), *POSITIONS[row].tolist()]
            for key, place in enumerate(places):
                before = key < 2 or (key - 2 <= query and bool(KEYS[row, key - 2]))
                near = window is None or int(POSITIONS[row, query]) - place < window
                own = key - 2 == query
                mask[row, 0, query, PREFIX + key] = (before and near) or own
    return mask


def test_one_kind_of_layer_gets_one_mask() -> None:
    plain = SimpleNamespace()
    unused = SimpleNamespace(sliding_window=2, layer_types=["full_attention"] * 2)
    for config in (plain, unused):
        found = layer_masks(config, causal(KEYS), POSITIONS, SHARED, PREFIX)
        assert torch.equal(found, literal(None))


def test_a_window_counts_positions_and_leaves_prefixes_in_sight() -> None:
    mistral = SimpleNamespace(sliding_window=3)
    found = layer_masks(mistral, causal(KEYS), POSITIONS, SHARED, PREFIX)
    assert torch.equal(found, literal(3))


def test_several_kinds_of_layers_get_a_mask_each() -> None:
    gemma = SimpleNamespace(sliding_window=2, layer_types=["sliding_attention", "full_attention"])
    found = layer_masks(gemma, causal(KEYS), POSITIONS, SHARED, PREFIX)
    assert isinstance(found, dict)
    assert found.keys() == {"full_attention", "sliding_attention"}
    assert torch.equal(found["full_attention"], literal(None))
    assert torch.equal(found["sliding_attention"], literal(2))


def test_without_prefix_or_shared_tokens_only_the_row_is_there() -> None:
    found = layer_masks(SimpleNamespace(), causal(KEYS), POSITIONS, None, 0)
    assert torch.equal(found, literal(None)[..., PREFIX + 2 :])
