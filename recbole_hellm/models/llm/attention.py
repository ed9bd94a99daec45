"""Attention over a per-layer prefix, registered with transformers under its own name.

The prefix of layer l consists of k keys and values that every query sees and that take no query
position (paper, Eq. 11). It reaches the layers as the keyword argument ``prefix_context`` of the
decoder's forward. It therefore works with gradient checkpointing, LoRA and any model family that
uses transformers' ``AttentionInterface``.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from recbole_hellm.errors import BackboneError

ATTENTION = "hellm_prefix"


@dataclasses.dataclass(frozen=True)
class PrefixFactors:
    """One layer's prefix keys (or values), factored over positions and prefix slots.

    ``prefix[b, t, k] = (static[k] + dynamic[b, t]) * scale[b, t, k] + bias``

    Attributes
    ----------
    static : Tensor
        [k, H_kv, d_h], shared by all samples.
    dynamic : Tensor, optional
        [B, Q, H_kv, d_h] with Q = 1 (one prefix per sample) or one per position.
    scale : Tensor, optional
        [B, Q, k]; ``None`` means 1.
    bias : Tensor, optional
        [H_kv, d_h].
    """

    static: Tensor
    dynamic: Tensor | None = None
    scale: Tensor | None = None
    bias: Tensor | None = None

    @property
    def per_position(self) -> bool:
        """Whether different positions of a row see different prefixes."""
        return self.dynamic is not None and self.dynamic.shape[1] > 1

    def materialise(self, batch: int) -> Tensor:
        """The prefix of each sample, [B, H_kv, k, d_h]; needs Q = 1."""
        prefix = self.static.unsqueeze(0)
        if self.dynamic is not None:
            prefix = prefix + self.dynamic[:, 0].unsqueeze(1)
        if self.scale is not None:
            prefix = prefix * self.scale[:, 0, :, None, None]
        if self.bias is not None:
            prefix = prefix + self.bias
        return prefix.transpose(1, 2).expand(batch, -1, -1, -1)


class PrefixSource(Protocol):
    """An object that provides the prefix of each layer."""

    def layer(self, attention: nn.Module) -> tuple[PrefixFactors, PrefixFactors]:
        """Keys and values for the given attention module."""


class AttentionContext:
    """Inputs of one forward pass of the decoder to its attention layers.

    Parameters
    ----------
    prefix : PrefixSource, optional
        Prefix keys and values by layer.
    shared : AttentionContext, optional
        The context of an earlier pass with `cached_positions` over tokens before all of this
        pass's tokens; their keys and values are reused.
    cached_positions : Tensor, optional
        [T], positions of this pass's tokens; caches their keys and values for a later pass.
    last_layer : int, optional
        Index of the decoder's last layer if only the last position of a row will be read. That
        layer computes no attention for the other positions, whose output is undefined.
    """

    def __init__(
        self,
        prefix: PrefixSource | None = None,
        shared: AttentionContext | None = None,
        cached_positions: Tensor | None = None,
        last_layer: int | None = None,
    ) -> None:
        self.prefix = prefix
        self.cache: dict[int, tuple[Tensor, Tensor]] = {}
        self.cached_positions = cached_positions
        self.last_layer = last_layer
        self._shared = shared
        self._reached: set[int] = set()

    @property
    def shared_positions(self) -> Tensor | None:
        """Positions of the shared tokens, [S]."""
        return None if self._shared is None else self._shared.cached_positions

    def check_reached(self, n_layers: int) -> None:
        """Raise :class:`BackboneError` unless every layer has used this context."""
        if len(self._reached) != n_layers:
            raise BackboneError(
                f"Only {len(self._reached)} of the backbone's {n_layers} layers call the "
                "registered attention function, so prefixes cannot reach the others; use a "
                "decoder of the LLaMA, Mistral, Qwen or Gemma families."
            )

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
        """Prepend the shared tokens' keys and values, and return their number."""
        self._reached.add(layer)
        if self.cached_positions is not None:
            self.cache.setdefault(layer, (key, value))
        if self._shared is None:
            return key, value, 0
        batch = key.shape[0]
        first_key, first_value = self._shared.cache[layer]
        key = torch.cat([first_key.expand(batch, -1, -1, -1), key], dim=2)
        value = torch.cat([first_value.expand(batch, -1, -1, -1), value], dim=2)
        return key, value, first_key.shape[2]


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    prefix_context: AttentionContext | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface, with the prefix of `prefix_context` if set.

    One prefix per sample is concatenated to keys and values for PyTorch's fused attention. Its own
    causal mask is not used: there are more keys than queries, and it would be aligned to the upper
    left. Prefixes that differ between the positions of a row are never materialised per slot;
    their scores and values are computed from the factors.

    Parameters
    ----------
    module : nn.Module
        The calling attention layer (its ``layer_idx`` selects the prefix).
    query : Tensor
        [B, H, T, d_h], rotated.
    key, value : Tensor
        [B, H_kv, T, d_h], the keys rotated.
    attention_mask : Tensor, optional
        Boolean over all keys, from :func:`~recbole_hellm.models.llm.masks.layer_masks`, or
        [B, 1, T, T] over this pass's tokens; ``None`` for plain causal attention.
    scaling : float, optional
        Factor on the scores, 1/sqrt(d_h) by default.
    dropout : float
        Dropout on the attention weights.
    softcap : float, optional
        c, where scores are c·tanh(score / c), as in Gemma 2. PyTorch's fused attention does not
        support it, so the scores are materialised.
    prefix_context : AttentionContext, optional
        This forward pass's inputs to the layers.

    Returns
    -------
    tuple
        [B, T, H, d_h] and ``None`` for the weights.
    """
    if prefix_context is None and softcap is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    context = prefix_context or AttentionContext()
    layer, length = _layer(module), query.shape[2]
    key, value, before = context.extend(layer, key, value)
    keys = values = None
    if context.prefix is not None:
        keys, values = context.prefix.layer(module)
        before += keys.static.shape[0]
    mask = attention_mask
    if mask is not None and mask.shape[-1] == length:
        # A mask from transformers. Padded queries see themselves: softmax needs at least one key.
        mask = mask | torch.eye(length, dtype=torch.bool, device=mask.device)
        mask = F.pad(mask, (before, 0), value=True)
    last = layer == context.last_layer
    if last:
        # Contiguous, since Inductor treats the strides of a view as constants (torch 2.13).
        query = query[:, :, -1:].contiguous()
        mask = None if mask is None else mask[..., -1:, :].contiguous()
    if softcap is not None or (keys is not None and keys.per_position):
        if mask is None:
            mask = _lower(length, before, query.device)[..., -query.shape[2] :, :]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = _factored(query, key, value, keys, values, mask, scale, dropout, softcap)
        return output.expand(-1, length, -1, -1), None
    if keys is not None and values is not None:
        key = torch.cat([keys.materialise(len(key)).to(key.dtype), key], dim=2)
        value = torch.cat([values.materialise(len(value)).to(value.dtype), value], dim=2)
    causal = mask is None and before > 0 and not last
    if causal and not query.is_cuda:
        mask, causal = _lower(length, before, query.device), False
    with _float32_on_cpu(query):
        if query.device.type == "cpu":
            query, key, value = (_at_least_float32(part) for part in (query, key, value))
        if causal:
            output = _lower_right(query, key, value, scaling, dropout)
        else:
            output, _ = sdpa_attention_forward(
                module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs
            )
    # The layer expects its input's shape; `LastPosition` drops the expanded positions again.
    return output.expand(-1, length, -1, -1), None


def _lower(length: int, before: int, device: torch.device) -> Tensor:
    """Causal mask of T queries over `before` + T keys, [1, 1, T, before + T]."""
    mask = torch.ones(length, before + length, dtype=torch.bool, device=device)
    return mask.tril(before)[None, None]


def _float32_on_cpu(query: Tensor) -> Any:
    """Disable autocast on CPUs, where the fused backward is several times slower in half."""
    return torch.autocast("cpu", enabled=False) if query.device.type == "cpu" else nullcontext()


def _at_least_float32(part: Tensor) -> Tensor:
    return part.float() if part.dtype in (torch.bfloat16, torch.float16) else part


def _lower_right(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
) -> Tensor:
    """Causal attention of T queries over more than T keys; needs no mask, so flash kernels run."""
    groups = query.shape[1] // key.shape[1]
    # Under autocast, rotated queries and keys are float32 and values are not.
    output = F.scaled_dot_product_attention(
        query.to(value.dtype),
        repeat_kv(key.to(value.dtype), groups),
        repeat_kv(value, groups),
        attn_mask=causal_lower_right(query.shape[2], key.shape[2]),
        dropout_p=dropout,
        scale=scaling,
    )
    return output.transpose(1, 2).contiguous()


def _factored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: PrefixFactors | None,
    values: PrefixFactors | None,
    mask: Tensor,
    scaling: float,
    dropout: float,
    softcap: float | None,
) -> Tensor:
    if keys is None or values is None:
        keys = values = PrefixFactors(key.new_zeros(0, *key.shape[1::2]))
    length, slots = query.shape[2], keys.static.shape[0]
    # Query heads that share a key head are stacked along the rows, so keys are not repeated.
    grouped = query.unflatten(1, (key.shape[1], -1))
    rows = (-1, length)

    # With (S + D) r + c for the prefix keys, q.key = (q.S + q.D) r + q.c, likewise the values.
    all_keys = torch.cat([_shared_slots(keys.static, key), key], dim=2)
    scores = (grouped.flatten(2, 3) @ all_keys.transpose(2, 3)).unflatten(2, rows)
    prefix, sequence = scores[..., :slots], scores[..., slots:]
    if keys.dynamic is not None:
        dynamic = keys.dynamic.transpose(1, 2).unsqueeze(2)
        prefix = prefix + (grouped * dynamic).sum(-1, keepdim=True)
    if keys.scale is not None:
        prefix = prefix * keys.scale[:, None, None]
    if keys.bias is not None:
        prefix = prefix + (grouped * keys.bias[:, None, None]).sum(-1, keepdim=True)
    scores = torch.cat([prefix, sequence], dim=-1) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask.unsqueeze(2), float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    weights = F.dropout(weights.to(value.dtype), dropout)

    on_prefix = weights[..., :slots]
    scaled = on_prefix
    if values.scale is not None:
        scaled = on_prefix * values.scale[:, None, None]
        weights = torch.cat([scaled, weights[..., slots:]], dim=-1)
    all_values = torch.cat([_shared_slots(values.static, value), value], dim=2)
    output = (weights.flatten(2, 3) @ all_values).unflatten(2, rows)
    if values.dynamic is not None:
        dynamic = values.dynamic.transpose(1, 2).unsqueeze(2)
        output = output + scaled.sum(-1, keepdim=True) * dynamic
    if values.bias is not None:
        output = output + on_prefix.sum(-1, keepdim=True) * values.bias[:, None, None]
    return output.flatten(1, 2).transpose(1, 2).contiguous()


def _shared_slots(static: Tensor, like: Tensor) -> Tensor:
    return static.transpose(0, 1).to(like.dtype).expand(len(like), -1, -1, -1)


def _layer(module: nn.Module) -> int:
    return int(module.layer_idx)  # type: ignore[arg-type]


AttentionInterface.register(ATTENTION, prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
