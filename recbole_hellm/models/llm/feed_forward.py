"""Feed-forward layers and norms of a frozen decoder on a CPU, with few passes over memory.

A frozen decoder's products take a fixed time. On a CPU in bfloat16 the rest takes as long: casts,
dropout masks and temporaries. The modules here take the places of transformers' own, under the same
names and with the same weights; on other devices, and when traced, they compute as those do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""transformers' classes that compute down(act(gate(x)) * up(x))."""
NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""transformers' classes that compute weight * x / rms(x)."""
SILU = ("SiLU", "SiLUActivation")
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def replace_layers(model: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Put the modules below in the places of a frozen decoder's own; weights and names stay.

    Parameters
    ----------
    model : nn.Module
        The frozen trunk, LoRA included; changed in place.
    layers : sequence of nn.Module
        Its attention modules, which tell its layers.
    """
    attention = {id(module) for module in layers}
    for block in model.modules():
        parts = dict(block.named_children())
        if not any(id(part) in attention for part in parts.values()):
            continue
        for name, part in parts.items():
            kind = type(part).__name__
            if kind in GATED and type(part.act_fn).__name__ in SILU:
                block.add_module(name, GatedFeedForward(part))
            elif kind in NORMS:
                block.add_module(name, FrozenRMSNorm(part))


class FrozenRMSNorm(nn.Module):
    """RMSNorm with frozen weights, whose output has the type of the products that follow.

    Under autocast every projection would cast the output to that type by itself.

    Parameters
    ----------
    norm : nn.Module
        One of :data:`NORMS`.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = float(norm.variance_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise [..., d]; the output has autocast's type where it is enabled."""
        if not _is_explicit(hidden) or hidden.dtype not in (torch.float32, torch.float64):
            precise = hidden.float()
            scale = torch.rsqrt(precise.square().mean(-1, keepdim=True) + self.eps)
            return self.weight * (precise * scale).to(hidden.dtype)
        dtype = _product_type(hidden)
        normed: Tensor = _RMSNorm.apply(hidden, self.weight, self.eps, dtype)
        return normed


class _RMSNorm(torch.autograd.Function):
    r""":math:`y = w \circ x r` with :math:`r = (\frac1d |x|^2 + \epsilon)^{-1/2}`, w constant."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norms = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        scale = norms.square_().div_(hidden.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        return (hidden * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        hidden, weight, scale = ctx.saved_tensors
        # dx = r (w dy - x r^2 mean(x w dy))
        weighted = gradients[0] * weight.to(hidden.dtype)
        along = (weighted * hidden).mean(-1, keepdim=True)
        weighted.addcmul_(hidden, along * scale.square(), value=-1).mul_(scale)
        return weighted, None, None, None


class GatedFeedForward(nn.Module):
    r"""Frozen gated feed-forward layer with LoRA: :math:`W_d (\mathrm{silu}(W_g x) \circ W_u x)`.

    Each W stands for :math:`W x + s B A\,\mathrm{dropout}(x)` where LoRA adapts it.

    Parameters
    ----------
    mlp : nn.Module
        One of :data:`GATED` with SiLU.
    """

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        for name in PROJECTIONS:
            self.add_module(name, mlp.get_submodule(name))
        self.act_fn = mlp.act_fn
        self.train(mlp.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., d] to [..., d]."""
        adapted = [_adapter(self.get_submodule(name)) for name in PROJECTIONS]
        if not _is_explicit(hidden) or any(part is None for part in adapted):
            gate, up, down = (self.get_submodule(name) for name in PROJECTIONS)
            plain: Tensor = down(self.act_fn(gate(hidden)) * up(hidden))
            return plain
        parts = cast(list[tuple[Tensor, Tensor, Tensor, float, float]], adapted)
        dtype = _product_type(hidden)
        flat = hidden.flatten(0, -2).to(dtype)
        tensors = [tensor for part in parts for tensor in part[:3]]
        scales = [part[3] for part in parts]
        rates = [part[4] if self.training else 0.0 for part in parts]
        output: Tensor = _GatedFeedForward.apply(flat, dtype, scales, rates, *tensors)
        return output.view(*hidden.shape[:-1], output.shape[-1])


class _GatedFeedForward(torch.autograd.Function):
    """The layer with explicit gradients of its input and its adapters; it has no other weights."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        dtype: torch.dtype,
        scales: list[float],
        rates: list[float],
        *tensors: Tensor,
    ) -> Tensor:
        weights, downs, ups = ([t.to(dtype) for t in tensors[i::3]] for i in range(3))
        adapted = [len(down) > 0 for down in downs]
        masks = [
            keep_mask((len(hidden), weight.shape[1]), rate, dtype) if rate and used else None
            for weight, rate, used in zip(weights, rates, adapted, strict=True)
        ]
        factors = [scale / kept_share(rate) for scale, rate in zip(scales, rates, strict=True)]
        ups = [up * factor for up, factor in zip(ups, factors, strict=True)]

        def project(index: int, inputs: Tensor) -> tuple[Tensor, Tensor]:
            outputs, mask = inputs @ weights[index].T, masks[index]
            if not adapted[index]:
                return outputs, outputs.new_empty(0)
            low = (inputs if mask is None else inputs * mask) @ downs[index].T
            return outputs.addmm_(low, ups[index].T), low

        gate, low_gate = project(0, hidden)
        up, low_up = project(1, hidden)
        inner = F.silu(gate).mul_(up)
        output, low_down = project(2, inner)
        ctx.save_for_backward(
            hidden, gate, up, low_gate, low_up, low_down, *weights, *downs, *ups, *masks
        )
        ctx.factors = factors
        ctx.types = [tensor.dtype for tensor in tensors]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        hidden, gate, up, *rest = ctx.saved_tensors
        lows, weights, downs, ups, masks = (rest[i : i + 3] for i in range(0, 15, 3))
        found: list[Tensor | None] = [None] * 9

        def back(index: int, inputs: Tensor, errors: Tensor) -> Tensor:
            """Gradient of a projection's input; adapters' gradients are put aside."""
            outputs = errors @ weights[index]
            if len(downs[index]) == 0:
                return outputs
            mask, low = masks[index], errors @ ups[index]
            kept = inputs if mask is None else inputs * mask
            found[3 * index + 1] = low.T @ kept
            found[3 * index + 2] = (errors.T @ lows[index]).mul_(ctx.factors[index])
            if mask is None:
                return outputs.addmm_(low, downs[index])
            return outputs.addcmul_(low @ downs[index], mask)

        activated = F.silu(gate)
        inner = back(2, activated * up, gradients[0].to(hidden.dtype))
        gate_errors = torch.ops.aten.silu_backward(inner * up, gate)
        errors = back(0, hidden, gate_errors)
        errors += back(1, hidden, inner.mul_(activated))
        cast_back = [
            None if value is None else value.to(dtype)
            for value, dtype in zip(found, ctx.types, strict=True)
        ]
        return errors, None, None, None, *cast_back


def kept_share(rate: float) -> float:
    """Share of ones in :func:`keep_mask`: 1 - rate to the precision of 16 bits."""
    return 1 - _threshold(rate) / 2**16


def keep_mask(shape: tuple[int, int], rate: float, dtype: torch.dtype) -> Tensor:
    """Mask of zeros (a share `rate`) and ones, of 16 random bits an element.

    A CPU's Bernoulli numbers cost a random number of 64 bits each, several times as much.

    Parameters
    ----------
    shape : tuple of int
    rate : float
        In [0, 1).
    dtype : torch.dtype
        Type of the mask.
    """
    count = shape[0] * shape[1]
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count].view(shape)
    return torch.ge(bits, _threshold(rate) - 2**15, out=torch.empty(shape, dtype=dtype))


def _threshold(rate: float) -> int:
    # Something is always kept, even at a rate that 16 bits do not tell from 1.
    return min(round(rate * 2**16), 2**16 - 1)


def _adapter(layer: Any) -> tuple[Tensor, Tensor, Tensor, float, float] | None:
    """Weight, A, B, scale and dropout of a layer; empty A and B without LoRA.

    ``None`` for a layer that is more than this: a bias, packed or trained weights, several or
    switched-off adapters.
    """
    base = getattr(layer, "base_layer", layer)
    if type(base) is not nn.Linear or base.bias is not None or base.weight.requires_grad:
        return None
    if base is layer:
        empty = base.weight.new_empty(0)
        return base.weight, empty, empty, 1.0, 0.0
    names = list(getattr(layer, "lora_A", {}))
    if len(names) != 1 or layer.disable_adapters or layer.merged or layer.lora_variant:
        return None
    name = names[0]
    down, up, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    if list(layer.active_adapters) != names or up.bias is not None:
        return None
    return base.weight, down.weight, up.weight, layer.scaling[name], getattr(dropout, "p", 0.0)


def _is_explicit(hidden: Tensor) -> bool:
    """Whether the explicit computation applies: on a CPU, and not traced."""
    return hidden.device.type == "cpu" and not torch.compiler.is_compiling()


def _product_type(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return hidden.dtype
