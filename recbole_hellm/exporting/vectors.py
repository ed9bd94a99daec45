"""User and item vectors whose inner products are a model's scores."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_hellm.errors import ConfigError
from recbole_hellm.evaluation.evaluator import users_at_once
from recbole_hellm.models.sequential.hellm import HeLLM
from recbole_hellm.progress import progress_bar
from recbole_hellm.runs.recommending import Recommender
from recbole_hellm.training.model_state import embedding_tables

CHECKED = 256  # users whose scores are compared
TOLERANCE = 1e-4  # greatest difference of a score, in units of the greatest score


@dataclasses.dataclass(frozen=True)
class ScoringVectors:
    """Vectors of a run.

    Attributes
    ----------
    user : ndarray of float32, shape [M, d]
        Row r belongs to the r-th of the dataset's ``user_tokens``. That of a sequential model is
        its state after the user's full history.
    item : ndarray of float32, shape [N, d]
        Row r belongs to the r-th of the dataset's ``item_tokens``.
    checked : int
        Users whose inner products were compared with the model's scores.
    difference : float
        The greatest difference found.
    """

    user: np.ndarray
    item: np.ndarray
    checked: int
    difference: float


def scoring_vectors(recommender: Recommender, show_progress: bool = False) -> ScoringVectors:
    """The vectors of a restored run, checked against its scores.

    Parameters
    ----------
    recommender : Recommender
    show_progress : bool

    Raises
    ------
    ConfigError
        If the model does not score by inner products.
    """
    pair = _states(recommender, show_progress) if recommender.reads_histories else None
    if not recommender.reads_histories:
        tables = embedding_tables(recommender.opened.model)
        pair = (tables["user"], tables["item"]) if {*tables} == {"user", "item"} else None
    if pair is None:
        raise _no_products(recommender, "it has no vectors of users and items for that")
    dataset = recommender.dataset
    users, items = len(dataset.user_tokens), len(dataset.item_tokens)
    # Row 0 is padding; some RecBole models have a mask token after the last item.
    user, item = (
        table[1 : count + 1].detach().float().cpu().numpy()
        for table, count in zip(pair, (users, items), strict=True)
    )
    if user.shape[1:] != item.shape[1:] or (len(user), len(item)) != (users, items):
        raise _no_products(recommender, "its vectors of users and items have different shapes")
    checked, difference, largest = _compared(recommender, user, item)
    if not difference <= TOLERANCE * max(largest, 1.0):  # also where it is NaN
        raise _no_products(recommender, f"those differ from its scores by {difference:.3g}")
    return ScoringVectors(user, item, checked, difference)


def _no_products(recommender: Recommender, reason: str) -> ConfigError:
    model = recommender.opened.config["model"]
    way_out = "try --format=onnx" if recommender.reads_histories else "choose another model"
    return ConfigError(
        f"{model} does not score items by inner products of vectors ({reason}), so an index cannot "
        f"rank them as it does; {way_out}."
    )


def _states(recommender: Recommender, show_progress: bool) -> tuple[Tensor, Tensor] | None:
    """A sequential model's states after each user's history, and its item weights, by id."""
    model = recommender.opened.model
    read = _reader(model)
    if read is None:
        return None
    count = recommender.dataset.user_num
    size = users_at_once(recommender.opened.config, model)
    parts: list[Tensor] = []
    bar = progress_bar(show=show_progress, total=count - 1, unit="user", leave=False)
    with torch.no_grad():
        items = read.items(model)
        for start in range(1, count, size):
            rows = _rows(recommender, np.arange(start, min(start + size, count)))
            parts.append(read.users(model, rows).float().cpu())
            bar.update(len(rows))
    bar.close()
    states = torch.cat(parts)
    return torch.cat([torch.zeros_like(states[:1]), states]), items.float().cpu()


def _rows(recommender: Recommender, users: np.ndarray) -> Any:
    rows = recommender.inputs(users, [recommender.history(user) for user in users])
    return rows.to(recommender.opened.config["device"])


class _NextItem:
    """SASRec and those like it: ``forward`` gives the state, which is multiplied with the table."""

    @staticmethod
    def fits(model: Any) -> bool:
        table = getattr(model, "item_embedding", None)
        return isinstance(table, nn.Embedding) and len(_parameters(model.forward)) == 2

    @staticmethod
    def items(model: Any) -> Tensor:
        weights: Tensor = model.item_embedding.weight
        return weights

    @staticmethod
    def users(model: Any, rows: Any) -> Tensor:
        state: Tensor = model(rows[model.ITEM_SEQ], rows[model.ITEM_SEQ_LEN])
        return state.reshape(len(rows), -1)


class _Language:
    """HeLLM: the head's read-outs are multiplied with its item weights."""

    @staticmethod
    def fits(model: Any) -> bool:
        return isinstance(model, HeLLM)

    @staticmethod
    def items(model: Any) -> Tensor:
        weights: Tensor = model.network.item_weights()
        return torch.cat([torch.zeros_like(weights[:1]), weights])

    @staticmethod
    def users(model: Any, rows: Any) -> Tensor:
        states: Tensor = model.read_out(rows)
        return states


def _reader(model: Any) -> type[_NextItem] | type[_Language] | None:
    kinds: tuple[type[_NextItem] | type[_Language], ...] = (_Language, _NextItem)
    return next((kind for kind in kinds if kind.fits(model)), None)


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def _compared(
    recommender: Recommender, user: np.ndarray, item: np.ndarray
) -> tuple[int, float, float]:
    """Users compared, the greatest difference of their scores, and the greatest score."""
    checked = min(CHECKED, len(user))
    chosen = np.unique(np.linspace(0, len(user) - 1, checked).astype(np.int64))
    size = users_at_once(recommender.opened.config, recommender.opened.model)
    difference = largest = 0.0
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        own = recommender.scores(_rows(recommender, part + 1))[:, 1:].numpy()
        products = user[part] @ item.T
        # A general model may score items that nobody has met as -inf.
        gap = np.abs(own - products).max(initial=0.0)
        difference = max(difference, float(gap)) if np.isfinite(gap) else float("inf")
        largest = max(largest, float(np.abs(own).max(initial=0.0)))
    return len(chosen), difference, largest
