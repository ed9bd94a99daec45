"""Attention over a per-layer prefix, registered with transformers under a name of its own.

A prefix of layer l is k keys and values which every query sees and which take no query position
(paper, Eq. 11). It reaches the layers as the keyword argument ``prefix_context`` of the decoder's
forward, so it works with gradient checkpointing, LoRA and any family whose attention goes through
transformers' ``AttentionInterface``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
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
        [k, H_kv, d_h], what all samples share.
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
    """Anything that knows the prefix of a layer."""

    def layer(self, attention: nn.Module) -> tuple[PrefixFactors, PrefixFactors]:
        """Keys and values for the given attention module."""


class AttentionContext:
    """What one forward pass of the decoder hands to its attention layers.

    Parameters
    ----------
    prefix : PrefixSource, optional
        Prefix keys and values by layer.
    segments : Tensor, optional
        [B, T] integers; positions see only positions of the same segment of their row.
    shared : AttentionContext, optional
        The context of an earlier pass made with ``keep=True`` over tokens that stand before all
        of this pass's tokens: their keys and values are read instead of computed again.
    keep : bool
        Keep this pass's keys and values, by layer, for a later pass.
    """

    def __init__(
        self,
        prefix: PrefixSource | None = None,
        segments: Tensor | None = None,
        shared: AttentionContext | None = None,
        keep: bool = False,
    ) -> None:
        self.prefix = prefix
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.keep = keep
        self._shared = shared
        self._segments = segments
        self._reached: set[int] = set()
        self._masks: dict[tuple[int, int], tuple[Tensor | None, Tensor]] = {}

    def check_reached(self, n_layers: int) -> None:
        """Raise :class:`BackboneError` unless every layer has asked for its share."""
        if len(self._reached) != n_layers:
            raise BackboneError(
                f"Only {len(self._reached)} of the backbone's {n_layers} layers call the attention "
                "function that transformers was given, so prefixes cannot reach them; use a "
                "decoder of the LLaMA, Mistral, Qwen or Gemma families."
            )

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
        """Put the shared tokens' keys and values before this pass's, and count them."""
        self._reached.add(layer)
        if self.keep:
            self.kept.setdefault(layer, (key, value))
        if self._shared is None:
            return key, value, 0
        batch = key.shape[0]
        first_key, first_value = self._shared.kept[layer]
        key = torch.cat([first_key.expand(batch, -1, -1, -1), key], dim=2)
        value = torch.cat([first_value.expand(batch, -1, -1, -1), value], dim=2)
        return key, value, first_key.shape[2]

    def mask(self, mask: Tensor | None, query: Tensor, before: int) -> Tensor | None:
        """Extend transformers' mask by `before` columns that every query sees.

        Parameters
        ----------
        mask : Tensor or None
            Boolean [B, 1, T, T]; ``None`` stands for a plain causal mask.
        query : Tensor
            [B, H, T, d_h].
        before : int
            Number of prefix and shared keys.

        Returns
        -------
        Tensor or None
            Boolean [B or 1, 1, T, before + T], aligned to the lower right; ``None`` if a plain
            causal mask is meant.
        """
        if before == 0 and self._segments is None and mask is None:
            return None
        # Layers of one kind share a mask object, so it is extended once per forward; the entry
        # keeps the object alive, without which its id could be given to another.
        entry = self._masks.get((id(mask), before))
        if entry is None:
            entry = (mask, self._extended(mask, query, before))
            self._masks[id(mask), before] = entry
        return entry[1]

    def _extended(self, mask: Tensor | None, query: Tensor, before: int) -> Tensor:
        length, device = query.shape[2], query.device
        if mask is None:
            mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        if self._segments is not None:
            same = self._segments.unsqueeze(1) == self._segments.unsqueeze(2)
            mask = mask & same.unsqueeze(1)
        # Padded queries see themselves: a row without any key has no softmax.
        mask = mask | torch.eye(length, dtype=torch.bool, device=device)
        return F.pad(mask, (before, 0), value=True)


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix_context: AttentionContext | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface, with the prefix of `prefix_context` if given.

    One prefix per sample is concatenated to keys and values and left to PyTorch's fused
    attention. Prefixes that differ between the positions of a row are never materialised per
    slot; their scores and values are computed from the factors.

    Parameters
    ----------
    module : nn.Module
        The calling attention layer (its ``layer_idx`` selects the prefix).
    query : Tensor
        [B, H, T, d_h], rotated.
    key, value : Tensor
        [B, H_kv, T, d_h], the keys rotated.
    attention_mask : Tensor, optional
        Boolean [B, 1, T, T], ``None`` for plain causal attention.
    scaling : float, optional
        Factor on the scores, 1/sqrt(d_h) by default.
    dropout : float
        Dropout on the attention weights.
    prefix_context : AttentionContext, optional
        What this forward pass hands to the layers.

    Returns
    -------
    tuple
        [B, T, H, d_h] and ``None`` for the weights.
    """
    if prefix_context is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    key, value, before = prefix_context.extend(_layer(module), key, value)
    if prefix_context.prefix is not None:
        keys, values = prefix_context.prefix.layer(module)
        length = keys.static.shape[0]
        mask = prefix_context.mask(attention_mask, query, before + length)
        if keys.per_position and mask is not None:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            return _factored(query, key, value, keys, values, mask, scale, dropout), None
        key = torch.cat([keys.materialise(len(key)).to(key.dtype), key], dim=2)
        value = torch.cat([values.materialise(len(value)).to(value.dtype), value], dim=2)
    else:
        mask = prefix_context.mask(attention_mask, query, before)
    return sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs
    )


def _factored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: PrefixFactors,
    values: PrefixFactors,
    mask: Tensor,
    scaling: float,
    dropout: float,
) -> Tensor:
    length, slots = query.shape[2], keys.static.shape[0]
    # Query heads that share a key head are stacked along the rows, so nothing is repeated.
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
