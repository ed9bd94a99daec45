"""Computing the end of a decoder only for the last position of each row."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class LastPosition:
    """Runs the end of a decoder only for the last position of each row.

    In the last layer, other positions matter only through their keys and values. The output
    projection of its attention, its MLP and the final norm therefore receive the last position
    alone, for which the result is exact. The residual sums in between are broadcast; their values
    at other positions are never read. A pass enables this by
    :attr:`~recbole_hellm.models.llm.attention.AttentionContext.last_layer`, which also skips the
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
        # Set inside the layer, so that recomputation in the backward pass sets it again.
        attention.register_forward_pre_hook(self._activate, with_kwargs=True)
        model.register_forward_hook(self._deactivate)
        for owner, name in ((attention, "o_proj"), (layer, "mlp"), (model, "norm")):
            part = getattr(owner, name, None)
            if isinstance(part, nn.Module):
                part.register_forward_pre_hook(self._cut)

    def _activate(self, _attention: nn.Module, _inputs: Any, keywords: dict[str, Any]) -> None:
        context = keywords.get("prefix_context")
        self._active = context is not None and context.last_layer == self.index

    def _deactivate(self, _model: nn.Module, _inputs: Any, _output: Any) -> None:
        self._active = False

    def _cut(self, _part: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (inputs[0][:, -1:], *inputs[1:]) if self._active else None
