from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_hellm.serving import explaining
from recbole_hellm.serving.explaining import nearest_in_history, unit_item_vectors
from recbole_hellm.serving.service import Service


def by_hand(
    table: np.ndarray, item: int, history: list[int], count: int
) -> list[tuple[int, float]]:
    """Cosines from their definition, one by one."""
    near = []
    for other in sorted({*history} - {item}):
        dot = sum(float(x) * float(y) for x, y in zip(table[item], table[other], strict=True))
        lengths = [math.sqrt(sum(float(x) ** 2 for x in table[place])) for place in (item, other)]
        if lengths[0] and lengths[1] and dot / (lengths[0] * lengths[1]) >= 0.1:
            near.append((other, dot / (lengths[0] * lengths[1])))
    return sorted(near, key=lambda pair: -pair[1])[:count]


def test_nearest_items_are_those_of_the_greatest_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    table[6] = 0  # an item without a direction is near none
    monkeypatch.setattr(explaining, "embedding_tables", lambda _: {})
    # A row more than there are items, as of a mask token.
    rows = torch.from_numpy(np.vstack([table, table[:1]]))
    monkeypatch.setattr(explaining, "item_vectors", lambda *_: rows)
    vectors = unit_item_vectors(SimpleNamespace(state_dict=dict), 9)
    assert vectors is not None and vectors.shape == (9, 4)
    history = [3, 5, 3, 8, 6, 1]
    found = nearest_in_history(vectors, np.array([2, 5, 6]), np.array(history), 3)
    for item, near in zip((2, 5, 6), found, strict=True):
        expected = by_hand(table, item, history, 3)
        assert [other for other, _ in near] == [other for other, _ in expected]
        np.testing.assert_allclose([c for _, c in near], [c for _, c in expected], rtol=1e-5)
    assert found[0] and not found[2]


def test_vectors_are_the_models_own(service: Service) -> None:
    by_name = {run.name: run for run in service.runs}
    assert by_name["Pop"].vectors is None
    model = by_name["SASRec"].recommender.opened.model
    table = model.item_embedding.weight.detach().numpy()
    vectors = by_name["SASRec"].vectors
    assert vectors is not None
    np.testing.assert_allclose(vectors[4], table[4] / np.linalg.norm(table[4]), rtol=1e-5)
    assert by_name["LightGCN"].vectors is not None
