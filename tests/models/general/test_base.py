from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.utils import InputType
from torch import Tensor

from recbole_hellm.errors import ConfigError
from recbole_hellm.models.general.base import (
    EmbeddingNetwork,
    EmbeddingRecommender,
    GeneralSettings,
    modality_tables,
    xavier,
)

M, N = 4, 5
PAIRS = torch.tensor([(1, 1), (1, 3), (2, 5), (3, 1), (4, 2), (1, 3)])


class Network(EmbeddingNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = xavier(M, 3), xavier(N, 3)
        self.forwards = self.epochs = 0
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self) -> tuple[Tensor, Tensor]:
        self.forwards += 1
        return self.user, self.item

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        self.seen.append(rows)
        return {"a": self.user[rows[0]].sum(), "b": 2 * self.item[rows[1]].sum()}

    def start_epoch(self) -> None:
        self.epochs += 1


class Model(EmbeddingRecommender):
    settings_classes = (GeneralSettings,)

    def build(self, interactions: sp.csr_array, dataset: Any) -> Network:
        self.interactions = interactions
        return Network()


class WithoutNegatives(Model):
    input_type = InputType.POINTWISE


class Stub:
    def __init__(self) -> None:
        self.inter_feat = {"user_id": PAIRS[:, 0], "item_id": PAIRS[:, 1]}

    def num(self, field: str) -> int:
        return {"user_id": M + 1, "item_id": N + 1}[field]

    def item_features(self) -> dict[str, Any]:
        rows = np.arange(N * 2, dtype=np.float32).reshape(N, 2)
        return {
            "text": SimpleNamespace(matrix=rows),
            "image": SimpleNamespace(matrix=np.zeros((N, 3), dtype=np.float32)),
        }


def build(cls: type[Model] = Model, **settings: Any) -> Model:
    fields = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "NEG_PREFIX": "neg_"}
    return cls({**fields, "device": torch.device("cpu"), **settings}, Stub())


BATCH = {
    "user_id": torch.tensor([1, 4]),
    "item_id": torch.tensor([3, 2]),
    "neg_item_id": torch.tensor([5, 5]),
}


def test_training_pairs_become_a_binary_matrix_from_zero() -> None:
    matrix = build().interactions.toarray()
    expected = np.zeros((M, N))
    for user, item in PAIRS.tolist():
        expected[user - 1, item - 1] = 1
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize(("cls", "columns"), [(Model, 3), (WithoutNegatives, 2)])
def test_the_loss_is_the_sum_of_terms_over_rows_from_zero(cls: type[Model], columns: int) -> None:
    model = build(cls)
    total = model.calculate_loss(BATCH)
    network = model.network
    assert torch.equal(total, network.user[[0, 3]].sum() + 2 * network.item[[2, 1]].sum())
    rows = [row.tolist() for row in network.seen[0]]
    assert rows == [[0, 3], [2, 1], [4, 4]][:columns]
    assert {name: term.requires_grad for name, term in model.last_losses.items()} == {
        "a": False,
        "b": False,
    }


def test_scores_are_inner_products_with_padding_last() -> None:
    model = build().eval()
    user, item = model.network.user.detach(), model.network.item.detach()
    scores = model.full_sort_predict({"user_id": torch.tensor([2, 4])})
    assert torch.equal(scores[:, 1:], user[[1, 3]] @ item.T)
    assert bool((scores[:, 0] == -torch.inf).all())
    pairs = model.predict({"user_id": torch.tensor([2]), "item_id": torch.tensor([5])})
    torch.testing.assert_close(pairs, (user[1] * item[4]).sum()[None])
    tables = model.export_embeddings()
    assert torch.equal(tables["item"], torch.cat([torch.zeros(1, 3), item]))
    assert torch.equal(tables["user"], torch.cat([torch.zeros(1, 3), user]))


def test_vectors_are_kept_in_evaluation_until_weights_change() -> None:
    model = build().eval()
    for _ in range(3):
        model.full_sort_predict({"user_id": torch.tensor([2])})
    assert model.network.forwards == 1
    model.load_state_dict(model.state_dict())
    model.predict(BATCH)
    assert model.network.forwards == 2
    model.train()
    model.vectors()
    model.vectors()
    assert model.network.forwards == 4


def test_sampling_names_the_batches_and_epochs_reach_the_network() -> None:
    assert build().batches == "interactions"
    assert build(sampling="users").batches == "user_uniform"
    model = build()
    model.start_epoch()
    assert model.network.epochs == 1
    with pytest.raises(ConfigError, match="sampling"):
        build(sampling="items")
    with pytest.raises(ConfigError, match="embedding_size=0"):
        build(embedding_size=0)


def test_modalities_come_in_on_one_scale() -> None:
    tables = modality_tables(Stub())
    assert list(tables) == ["text", "image"]
    assert float(tables["text"].square().mean()) == pytest.approx(1, rel=1e-6)
    ratio = tables["text"][1:] / torch.arange(2, 10).reshape(4, 2)
    torch.testing.assert_close(ratio, ratio[:1, :1].expand(4, 2))
    assert not tables["image"].any()


def test_drawn_negatives_are_refused_where_none_are_wanted() -> None:
    wanted = {"distribution": "uniform", "sample_num": 1}
    with pytest.raises(ConfigError, match="WithoutNegatives draws no negatives"):
        build(WithoutNegatives, train_neg_sample_args=wanted)
    build(WithoutNegatives, train_neg_sample_args={"distribution": "none"})
    build(Model, train_neg_sample_args=wanted)
