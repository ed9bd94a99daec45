"""The state of a trained model: plain checkpoint values and embedding tables."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import pickle
import random
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

_CSR, _ARRAY, _GENERATOR = "__csr__", "__array__", "__generator__"
SMALL = 2**16
"""Most elements of a tensor or collection that counts as small."""
_OWN = frozenset(vars(nn.Module()))


def pack_other(model: Any) -> dict[str, Any]:
    """The packed values that RecBole's models list in ``other_parameter_name``.

    Layers listed there (din.py:104) are left out, since ``state_dict`` has them.
    """
    others = model.other_parameter().items()
    return {name: pack(value) for name, value in others if not isinstance(value, nn.Module)}


class LooseState:
    """What a model's modules keep as attributes beside parameters and buffers.

    RecBole's models count steps for annealing (multivae.py:66) there, and keep running losses
    (diffrec.py), an attention matrix (kgat.py:310) or a shuffled list of users (line.py:117).
    ``state_dict`` lacks these values, and exact resuming needs them.

    Numbers and small tensors are always saved. Graphs, histories and texts are rebuilt from the
    data and the settings, so larger tensors, arrays and other plain values are saved only if they
    have changed since the model was built.

    Parameters
    ----------
    model : nn.Module
        As it was built.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._built = {
            (path, name): _trace(value)
            for path, name, value in self._attributes()
            if not _is_counted(value)
        }

    def save(self) -> dict[str, dict[str, Any]]:
        """The values by module, as a ``weights_only`` checkpoint can hold them."""
        state: dict[str, dict[str, Any]] = {path: {} for path, _ in self.model.named_modules()}
        for path, name, value in self._attributes():
            if _is_counted(value) or self._changed(path, name, value):
                state[path][name] = pack(value)
        return state

    def _attributes(self) -> Iterator[tuple[str, str, Any]]:
        """Path of each module, and the names and values of its attributes that can be saved."""
        for path, module in self.model.named_modules():
            for name, value in vars(module).items():
                elsewhere = _OWN.union(getattr(module, "other_parameter_name", ()))
                if name not in elsewhere and _can_be_packed(value):
                    yield path, name, value

    def _changed(self, path: str, name: str, value: Any) -> bool:
        built = self._built.get((path, name))
        if isinstance(built, tuple):  # weak references compare what they refer to
            tensor = built[0]()
            return tensor is None or tensor is not value or tensor._version != built[1]
        return built is None or _trace(value) != built


def restore_loose_values(model: nn.Module, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the values of :meth:`LooseState.save`; tensors move to the device of those they replace.

    Arrays and random generators are changed in place, since several modules may share one.
    """
    for path, module in model.named_modules():
        attributes = vars(module)
        for name, packed in state.get(path, {}).items():
            old = attributes.get(name)
            kind = _generator_kind(old)
            value = unpack(packed)
            if kind is not None and isinstance(value, dict) and _GENERATOR in value:
                kind.restore(old, value[_GENERATOR])
            elif _replaces_in_place(old, value):
                np.copyto(old, value)
            elif isinstance(value, Tensor) and isinstance(old, Tensor):
                attributes[name] = value.to(old.device)
            else:
                attributes[name] = value


def _replaces_in_place(old: Any, value: Any) -> bool:
    arrays = isinstance(old, np.ndarray) and isinstance(value, np.ndarray)
    return arrays and old.shape == value.shape and old.dtype == value.dtype and old.flags.writeable


@dataclasses.dataclass(frozen=True)
class _GeneratorKind:
    """A class of random generators, and how their states are read and set."""

    cls: type
    capture: Callable[[Any], Any]
    restore: Callable[[Any, Any], Any]


_GENERATORS = (
    _GeneratorKind(
        np.random.Generator,
        lambda generator: dict(generator.bit_generator.state),
        lambda generator, state: setattr(generator.bit_generator, "state", state),
    ),
    _GeneratorKind(
        np.random.RandomState,
        lambda generator: generator.get_state(legacy=False),
        lambda generator, state: generator.set_state(state),
    ),
    _GeneratorKind(random.Random, random.Random.getstate, random.Random.setstate),
    _GeneratorKind(
        torch.Generator,
        torch.Generator.get_state,
        lambda generator, state: generator.set_state(state.cpu()),
    ),
)


def _generator_kind(value: Any) -> _GeneratorKind | None:
    return next((kind for kind in _GENERATORS if isinstance(value, kind.cls)), None)


def _is_counted(value: Any) -> bool:
    """Whether a value is a number or a small tensor."""
    if isinstance(value, Tensor):
        return value.layout == torch.strided and value.numel() <= SMALL
    return type(value) in (int, float)


def _can_be_packed(value: Any, small: bool = False) -> bool:
    """Whether :func:`pack` makes of a value what a ``weights_only`` checkpoint can hold."""
    if isinstance(value, Tensor):
        # The large results of a forward pass are computed anew.
        large = type(value) is Tensor and value.grad_fn is None and not small
        return _is_counted(value) or large
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc" and value.dtype.itemsize <= 16
    if type(value) in (list, tuple, dict):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return len(parts) <= SMALL and all(_can_be_packed(part, small=True) for part in parts)
    plain = (int, float, bool, str, type(None))
    return type(value) in plain or (not small and _generator_kind(value) is not None)


def _trace(value: Any) -> tuple[weakref.ref[Tensor], int] | str:
    """What tells whether a value has changed, without a copy of it."""
    if isinstance(value, Tensor) and not _is_counted(value):
        return weakref.ref(value), value._version
    if isinstance(value, np.ndarray):  # its bytes, since a pickle of it would be two copies
        plain = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return f"{value.dtype.str} {value.shape} {hashlib.sha256(plain.data).hexdigest()}"
    return hashlib.sha256(pickle.dumps(_without_tensors(pack(value)))).hexdigest()


def _without_tensors(value: Any) -> Any:
    """A packed value with bytes in place of tensors, whose pickles are never the same."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), plain.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _without_tensors(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(part) for part in value]
    return value


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
        return {_ARRAY: torch.from_numpy(np.array(value))}  # a copy: checkpoints hold no views
    kind = _generator_kind(value)
    if kind is not None:
        return {_GENERATOR: pack(kind.capture(value))}
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
