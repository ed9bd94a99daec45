from __future__ import annotations

import io
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_hellm.training.model_state import (
    LooseState,
    embedding_tables,
    item_vectors,
    pack,
    pack_other,
    parameter_counts,
    restore_loose_values,
    unpack,
)


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.update = 0
        self.rate = 0.5
        self.flag = True
        self.history = torch.zeros(2, 3)
        self.graph = torch.eye(3).to_sparse()
        self.large = torch.zeros(300, 300)
        self.matrix = sp.random(5, 4, density=0.5, format="lil", random_state=0)
        self.other_parameter_name: list[str] = ["layer", "history", "matrix"]

    def other_parameter(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.other_parameter_name}


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok"])
def test_sparse_matrices_come_back(form: str) -> None:
    matrix = sp.random(6, 4, density=0.4, format=form, random_state=1)
    restored = unpack(through_a_file(pack({"w": matrix})))["w"]
    assert restored.shape == (6, 4)
    assert np.array_equal(restored.toarray(), matrix.toarray())


def test_arrays_and_nested_values_come_back() -> None:
    value = {
        "array": np.arange(6).reshape(2, 3),
        "sets": {3: [(torch.ones(2), 4, "x")], "none": None},
        "tensor": torch.arange(3),
    }
    restored = unpack(through_a_file(pack(value)))
    assert np.array_equal(restored["array"], value["array"])
    assert isinstance(restored["array"], np.ndarray)
    assert torch.equal(restored["sets"][3][0][0], torch.ones(2))
    assert (restored["sets"][3][0][1:], restored["sets"]["none"]) == ((4, "x"), None)


def test_layers_among_the_extra_state_are_left_to_the_state_dict() -> None:
    assert set(through_a_file(pack_other(Counting()))) == {"history", "matrix"}


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Counting()
        self.steps = 7


def test_loose_values_come_back_into_every_module() -> None:
    model = Outer()
    model.inner.other_parameter_name = []
    kept = LooseState(model)
    model.inner.update, model.inner.history[1, 2], model.inner.rate = 12, 3.5, 0.25
    state = through_a_file(kept.save())
    assert set(state["inner"]) == {"update", "rate", "history"}
    fresh = Outer()
    fresh.steps, fresh.inner.flag = 1, False
    restore_loose_values(fresh, state)
    assert (fresh.steps, fresh.inner.update, fresh.inner.rate) == (7, 12, 0.25)
    assert float(fresh.inner.history[1, 2]) == 3.5
    assert fresh.inner.flag is False


def test_what_recbole_saves_as_other_parameters_is_not_saved_twice() -> None:
    model = Outer()
    assert set(LooseState(model).save()["inner"]) == {"update", "rate"}


class Drawing(nn.Module):
    """All kinds of state that a model may hold outside of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.order = np.random.default_rng(0).permutation(100_000)
        self.alias = self.order
        self.weights = np.linspace(0, 1, 5)
        self.generator = np.random.default_rng(1)
        self.twister = np.random.Generator(np.random.MT19937(2))
        self.old_generator = np.random.RandomState(3)
        self.python = random.Random(4)  # noqa: S311 (nothing secret)
        self.torch = torch.Generator().manual_seed(5)
        self.phase = "warm-up"
        self.flags = {"warm": True, "seen": [1, 2, (3, None)]}
        self.ready = False
        self.graph = torch.eye(4).to_sparse()
        self.large = torch.zeros(300, 300)
        self.used = np.array([{1}, {2}], dtype=object)  # no checkpoint can hold it

    def step(self) -> list[Any]:
        self.generator.shuffle(self.order)
        self.weights = self.weights[::-1] * 2
        self.phase, self.ready = "training", True
        self.flags["seen"].append(float(self.old_generator.normal()))  # type: ignore[attr-defined]
        self.graph = torch.rand(4, 4, generator=self.torch).to_sparse()
        self.large[3, 4] += self.twister.random()
        return [*self.order[:9], *self.weights, self.python.random(), self.python.gauss(0, 1)]


def test_a_restored_model_draws_what_it_would_have_drawn() -> None:
    model = Drawing()
    kept = LooseState(model)
    model.step()
    state = through_a_file(kept.save())
    fresh = Drawing()
    array = fresh.order
    restore_loose_values(fresh, state)
    assert fresh.order is fresh.alias is array  # modules may share it
    for _ in range(3):
        assert fresh.step() == model.step()
        assert (fresh.phase, fresh.ready, fresh.flags) == (model.phase, model.ready, model.flags)
        assert torch.equal(fresh.graph.to_dense(), model.graph.to_dense())
        assert torch.equal(fresh.large, model.large)


def test_what_has_not_changed_is_rebuilt_and_not_saved() -> None:
    model = Drawing()
    assert LooseState(model).save() == {"": {}}
    kept = LooseState(model)
    model.large[0, 0] = 1
    assert set(kept.save()[""]) == {"large"}


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 2)),
        np.array(1.5),
        np.zeros((0, 4)),
        np.array([True, False]),
        np.asfortranarray(np.ones((2, 3), dtype=np.complex64)),
        np.arange(6, dtype=np.int16)[::2],
    ],
    ids=str,
)
def test_an_array_is_saved_once_it_has_changed(array: np.ndarray) -> None:
    model = nn.Module()
    model.array = array  # type: ignore[assignment]
    kept = LooseState(model)
    model.array = array.copy()  # type: ignore[assignment]
    assert kept.save() == {"": {}}
    shaped, typed = array.reshape(*array.shape, 1), array.astype(np.complex128)
    for other in (shaped, typed, np.asarray(array + 1)):
        changed = other.shape != array.shape or other.dtype != array.dtype or bool(array.size)
        model.array = other  # type: ignore[assignment]
        assert set(kept.save()[""]) == ({"array"} if changed else set())


def test_loose_values_of_earlier_checkpoints_are_read() -> None:
    fresh = Outer()
    restore_loose_values(fresh, {"": {"steps": 3}, "inner": {"history": torch.ones(2, 3)}})
    assert (fresh.steps, float(fresh.inner.history.sum())) == (3, 6)


def test_loose_tensors_go_to_where_the_model_keeps_them() -> None:
    # A checkpoint is read to the run's device, whatever device a model draws its weights on.
    model = Counting()
    model.other_parameter_name = []
    state = LooseState(model).save()
    model.history = model.history.to("meta")
    restore_loose_values(model, state)
    assert model.history.device.type == "meta"


class Exporting(nn.Module):
    def export_embeddings(self) -> dict[str, Tensor]:
        assert not self.training
        return {"item": torch.ones(3, 2)}


class GraphModel(nn.Module):
    restore_user_e: Tensor | None = None
    restore_item_e: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.user_embedding, self.item_embedding = nn.Embedding(3, 2), nn.Embedding(4, 2)

    def forward(self) -> tuple[Tensor, Tensor, int]:
        return 2 * self.user_embedding.weight, 3 * self.item_embedding.weight, 0


class ViewModel(GraphModel):
    def forward(self, graph: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        raise AssertionError("needs a graph")


class TableModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item_embedding, self.user_embedding = nn.Embedding(4, 2), torch.ones(3, 2)


def test_embeddings_are_those_that_score() -> None:
    assert embedding_tables(Exporting().train())["item"].shape == (3, 2)
    graph = GraphModel()
    tables = embedding_tables(graph)
    assert torch.equal(tables["user"], 2 * graph.user_embedding.weight)
    assert torch.equal(tables["item"], 3 * graph.item_embedding.weight)
    assert not tables["item"].requires_grad
    view = ViewModel()
    assert embedding_tables(view) == {}
    view.restore_user_e, view.restore_item_e = torch.zeros(3, 2), torch.ones(4, 2)
    assert torch.equal(embedding_tables(view)["item"], torch.ones(4, 2))
    table = TableModel()
    assert list(embedding_tables(table)) == ["item"]
    assert torch.equal(embedding_tables(table)["item"], table.item_embedding.weight)


class Reading(nn.Module):
    def export_item_tokens(self, weights: Mapping[str, Tensor]) -> Tensor:
        return 2 * weights["w"]


def test_items_are_shown_by_their_table_or_as_a_language_model_reads_them() -> None:
    weights, tables = {"w": torch.ones(3, 4)}, {"item": torch.zeros(3, 2)}
    vectors = item_vectors(Reading(), tables, weights)
    assert vectors is not None and torch.equal(vectors, torch.full((3, 4), 2.0))
    assert item_vectors(TableModel(), tables, weights) is tables["item"]
    assert item_vectors(TableModel(), {}, weights) is None


def test_parameters_are_counted() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).requires_grad_(False))
    assert parameter_counts(model) == {"parameters": 14, "trainable_parameters": 8}
