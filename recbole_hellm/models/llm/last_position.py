"""What is read at the last position of a row alone need not be computed at the others."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class LastPosition:
    """Runs the end of a decoder for the last position of each row alone.

    In the last layer the other positions matter through their keys and values only. So the output
    projection of its attention, its MLP and the final norm are given the last position, which is
    exact there; the residual sums in between are broadcast, and what they leave at the other
    positions is never read. A pass asks for it through
    :attr:`~recbole_hellm.models.llm.attention.AttentionContext.last_layer`, which also spares the
    other positions' attention.

    Parameters
    ----------
    model : nn.Module
        The decoder trunk, adapters included.
    attention : nn.Module
        The attention module of its last layer.
    """

    def __init__(self, model: nn.Module, attention: nn.Module) -> None:
        self.index = int(attention.layer_idx)  # type: ignore[arg-type]
        self._active = False
        layer = next(part for part in model.modules() if attention in part.children())
        # Set inside the layer, so that recomputing it in the backward pass sets it again.
        attention.register_forward_pre_hook(self._look, with_kwargs=True)
        model.register_forward_hook(self._end)
        for owner, name in ((attention, "o_proj"), (layer, "mlp"), (model, "norm")):
            part = getattr(owner, name, None)
            if isinstance(part, nn.Module):
                part.register_forward_pre_hook(self._cut)

    def _look(self, _attention: nn.Module, _inputs: Any, keywords: dict[str, Any]) -> None:
        context = keywords.get("prefix_context")
        self._active = context is not None and context.last_layer == self.index

    def _end(self, _model: nn.Module, _inputs: Any, _output: Any) -> None:
        self._active = False

    def _cut(self, _part: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (inputs[0][:, -1:], *inputs[1:]) if self._active else None
