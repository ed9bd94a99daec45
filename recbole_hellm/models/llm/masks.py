"""Attention masks: one boolean mask for each kind of attention layer, built once per pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SLIDING = "sliding_attention"
Masks = Tensor | dict[str, Tensor]


def causal(keys: Tensor) -> Tensor:
    """[B, T, T] from [B, T] real tokens: each position sees the real tokens up to itself."""
    length = keys.shape[1]
    lower = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
    return keys.unsqueeze(1) & lower


def layer_masks(
    config: Any, visible: Tensor, positions: Tensor, shared: Tensor | None, prefix: int
) -> Masks:
    """Masks in the form that transformers' decoders use unchanged.

    All queries see the prefixes at any distance. A sliding window counts positions rather than
    columns, so padding and other sequences of a row do not take up space in it.

    Parameters
    ----------
    config : PreTrainedConfig
        The decoder's configuration, which names its kinds of layers.
    visible : Tensor
        Boolean [B, T, T], True where a query may see a key of its row.
    positions : Tensor
        [B, T], positions of the row's tokens.
    shared : Tensor, optional
        [S], positions of the tokens before all rows.
    prefix : int
        Number of prefixes before these tokens.

    Returns
    -------
    Tensor or dict of str to Tensor
        [B, 1, T, prefix + S + T], or a mask per kind of layer if there are several kinds.
    """
    if shared is not None:
        visible = F.pad(visible, (len(shared), 0), value=True)
        positions_of_keys = torch.cat([shared.expand(len(positions), -1), positions], dim=1)
    else:
        positions_of_keys = positions
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    full = _extended(visible, prefix)
    if window is None or (kinds is not None and SLIDING not in kinds):
        return full
    near = positions.unsqueeze(2) - positions_of_keys.unsqueeze(1) < window
    sliding = _extended(visible & near, prefix)
    return sliding if kinds is None else {"full_attention": full, SLIDING: sliding}


def _extended(visible: Tensor, prefix: int) -> Tensor:
    queries, keys = visible.shape[1:]
    # Padded queries see themselves: softmax needs at least one key per row.
    self_visible = torch.ones(queries, keys, dtype=torch.bool, device=visible.device)
    self_visible = self_visible.tril(keys - queries).triu(keys - queries)
    return F.pad(visible | self_visible, (prefix, 0), value=True).unsqueeze(1)
