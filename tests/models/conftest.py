"""Fixtures of all models: a toy dataset of general recommenders, and a small backbone.

Every model's equations are written out in its own test file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.backbones import SMALL
from torch import Tensor
from transformers import LlamaConfig, LlamaModel


class ToyDataset:
    """What a general recommender asks of a dataset.

    Parameters
    ----------
    pairs : sequence of (int, int)
        Training interactions by internal id.
    n_users, n_items : int
        Without padding.
    tables : Mapping of str to ndarray, shapes [n_items, D_m]
        Raw features by modality.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        n_users: int,
        n_items: int,
        tables: Mapping[str, np.ndarray],
    ) -> None:
        users, items = torch.tensor(pairs).unbind(1)
        self.inter_feat = {"user_id": users, "item_id": items}
        self.sizes = {"user_id": n_users + 1, "item_id": n_items + 1}
        self.features = {name: SimpleNamespace(matrix=table) for name, table in tables.items()}

    def num(self, field: str) -> int:
        return self.sizes[field]

    def item_features(self) -> dict[str, Any]:
        return self.features


@pytest.fixture(scope="session")
def toy_dataset() -> type[ToyDataset]:
    """:class:`ToyDataset`."""
    return ToyDataset


@pytest.fixture(scope="session")
def build_model() -> Callable[..., Any]:
    """``build_model(cls, dataset, seed=11, redraw=True, **settings)``: a model in float64.

    All its parameters are drawn anew from the standard normal distribution, so that no bias is zero
    and no two modalities weigh the same, unless `redraw` is false.
    """

    def build(
        cls: type[Any], dataset: Any, *, seed: int = 11, redraw: bool = True, **settings: Any
    ) -> Any:
        fields = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "NEG_PREFIX": "neg_"}
        usual = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            model = cls({**fields, "device": torch.device("cpu"), **settings}, dataset)
        finally:
            torch.set_default_dtype(usual)
        if redraw:
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter)
        return model

    return build


@pytest.fixture(scope="session")
def assert_losses() -> Callable[..., dict[str, Tensor | None]]:
    """``assert_losses(model, batch, terms, **options)``: the loss terms are these, gradients too.

    `terms` are the literal ones, `options` go to ``torch.autograd.grad``. Gives the gradients of
    the model's own loss by parameter.
    """

    def check(
        model: Any, batch: dict[str, Tensor], terms: dict[str, Tensor], **options: bool
    ) -> dict[str, Tensor | None]:
        loss = model.calculate_loss(batch)
        assert set(model.last_losses) == set(terms)
        for name, term in terms.items():
            torch.testing.assert_close(model.last_losses[name], term.detach())
        total = torch.stack(list(terms.values())).sum()
        torch.testing.assert_close(loss, total)

        names, parameters = zip(*model.named_parameters(), strict=True)
        own = torch.autograd.grad(loss, parameters, **options)
        literal = torch.autograd.grad(total, parameters, **options)
        for name, left, right in zip(names, own, literal, strict=True):
            if left is None or right is None:
                assert left is right, name
            else:
                torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-9)
        return dict(zip(names, own, strict=True))

    return check


@pytest.fixture(scope="session")
def assert_scores() -> Callable[[Any, Tensor], None]:
    """``assert_scores(model, expected)``: all users' scores of items 1..N are these [M, N]."""

    def check(model: Any, expected: Tensor) -> None:
        n_users, n_items = expected.shape
        model.eval()
        scores = model.full_sort_predict({"user_id": torch.arange(1, n_users + 1)})
        assert scores.shape == (n_users, n_items + 1)
        assert torch.isneginf(scores[:, 0]).all()
        torch.testing.assert_close(scores[:, 1:], expected.detach())
        pairs = {"user_id": torch.tensor([3, n_users]), "item_id": torch.tensor([1, n_items])}
        torch.testing.assert_close(model.predict(pairs), scores[[2, n_users - 1], [1, n_items]])

    return check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small LLaMA in bfloat16."""
    torch.manual_seed(0)
    LlamaModel(LlamaConfig(**SMALL)).to(torch.bfloat16).save_pretrained(tmp_path)
    return tmp_path
