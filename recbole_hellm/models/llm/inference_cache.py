"""Tensors derived from weights, kept at inference while no weight changes."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Self = TypeVar("Self", bound="InferenceCache")


class InferenceCache(nn.Module):
    """A module that may keep what it derives from its weights alone, from one batch to the next.

    Switching between training and evaluation, loading or moving weights, and changing one of them
    empties the cache.
    """

    _stamp: list[Any]
    _cache: dict[Any, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self._forget()
        self.register_load_state_dict_post_hook(self._forget)

    def kept(self) -> dict[Any, Tensor] | None:
        """The cache; ``None`` in training and where gradients are recorded."""
        busy = self.training or torch.is_grad_enabled()
        if busy or torch.is_inference_mode_enabled() or torch.compiler.is_compiling():
            return None
        parameters = list(self.parameters())
        if any(value.is_inference() for value in parameters):
            return None
        values = [*parameters, *self.buffers()]
        stamp = [(value.data_ptr(), value._version) for value in values]
        if stamp != self._stamp:
            self._stamp, self._cache = stamp, {}
        return self._cache

    def train(self: Self, mode: bool = True) -> Self:
        """Switch between training and evaluation; empties the cache."""
        self._forget()
        return super().train(mode)

    def _apply(self: Self, *given: Any, **options: Any) -> Self:
        # Moves and casts may put other values at an old address, and do not count as changes.
        self._forget()
        return super()._apply(*given, **options)

    def _forget(self, *_: Any) -> None:
        self._stamp, self._cache = [], {}
