"""The state of a trained model: plain checkpoint values and embedding tables."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

_CSR, _ARRAY = "__csr__", "__array__"


def pack_other(model: Any) -> dict[str, Any]:
    """The packed values that RecBole's models list in ``other_parameter_name``.

    Layers listed there (din.py:104) are left out, since ``state_dict`` has them.
    """
    others = model.other_parameter().items()
    return {name: pack(value) for name, value in others if not isinstance(value, nn.Module)}


def loose_values(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Plain numbers and small tensors that a model's modules keep as attributes, by module.

    RecBole's models use some of them to count steps for annealing (multivae.py:66) or to keep
    running losses (diffrec.py). ``state_dict`` lacks these values, and exact resuming needs them.
    """
    return {
        path: {name: value for name, value in vars(module).items() if _is_loose(value)}
        for path, module in model.named_modules()
    }


def restore_loose_values(model: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """Set the values of :func:`loose_values`; tensors move to the device of those they replace."""
    for path, module in model.named_modules():
        attributes = vars(module)
        for name, value in state.get(path, {}).items():
            old = attributes.get(name)
            both = isinstance(value, Tensor) and isinstance(old, Tensor)
            attributes[name] = value.to(old.device) if both else value


def _is_loose(value: Any) -> bool:
    if isinstance(value, Tensor):
        # Larger tensors are graphs and histories, which are rebuilt from the data.
        return value.layout == torch.strided and value.numel() <= 2**16
    return type(value) in (int, float)


def pack(value: Any) -> Any:
    """A model's extra state as tensors and plain values, for a ``weights_only`` checkpoint.

    RecBole's counting models keep scipy matrices and numpy arrays (e.g. itemknn.py), which a
    ``weights_only`` load refuses.
    """
    if sp.issparse(value):
        matrix = value.tocsr()
        parts = (matrix.data, matrix.indices, matrix.indptr)
        return {_CSR: [torch.from_numpy(np.asarray(part)) for part in parts], "shape": matrix.shape}
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(value)}
    if isinstance(value, dict):
        return {key: pack(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(pack(part) for part in value)
    return value


def unpack(value: Any) -> Any:
    """Reverse :func:`pack`."""
    if isinstance(value, dict):
        if _CSR in value:
            data, indices, indptr = (part.cpu().numpy() for part in value[_CSR])
            return sp.csr_matrix((data, indices, indptr), shape=tuple(value["shape"]))
        if _ARRAY in value:
            return value[_ARRAY].cpu().numpy()
        return {key: unpack(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(unpack(part) for part in value)
    return value


def load_weights(model: Any, state: dict[str, Any]) -> None:
    """Load the model's part of a checkpoint."""
    model.load_state_dict(state["model"])
    model.load_other_parameter(unpack(state["other"]))


@torch.no_grad()
def embedding_tables(model: Any) -> dict[str, Tensor]:
    """User and item embeddings of a trained model, in internal-id order with row 0 for padding.

    Models with ``export_embeddings()`` define them there. Of RecBole's models, graph models have
    propagated tables (those kept after scoring, if ``forward`` takes arguments), and others have
    the weights of ``user_embedding`` and ``item_embedding``.

    Returns
    -------
    dict of str to Tensor
        Any of ``user`` [n_users, d] and ``item`` [n_items, d]; empty if the model has neither.
    """
    model.eval()
    if hasattr(model, "export_embeddings"):
        return model.export_embeddings()
    if hasattr(model, "restore_user_e") and hasattr(model, "restore_item_e"):
        if inspect.signature(model.forward).parameters:
            user, item = model.restore_user_e, model.restore_item_e
        else:
            user, item, *_ = model.forward()
        return {"user": user.detach(), "item": item.detach()} if user is not None else {}
    tables = {}
    for name in ("user", "item"):
        layer = getattr(model, f"{name}_embedding", None)
        if isinstance(layer, nn.Embedding):
            tables[name] = layer.weight.detach()
    return tables


@torch.no_grad()
def item_vectors(
    model: Any, tables: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Tensor | None:
    """Vectors of the items in a trained model, for visualisation.

    Parameters
    ----------
    model : AbstractRecommender
    tables : Mapping of str to Tensor
        The result of :func:`embedding_tables`.
    weights : Mapping of str to Tensor
        The model's full weights; this process may hold only a shard of them.

    Returns
    -------
    Tensor or None
        [N+1, d] with row 0 for padding: the item tokens of a language model, from its
        ``export_item_tokens(weights)``; of any other model its item table, if it has one.
    """
    if hasattr(model, "export_item_tokens"):
        return model.export_item_tokens(weights)
    return tables.get("item")


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Total and trainable parameters."""
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
