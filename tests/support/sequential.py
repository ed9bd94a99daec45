"""Equations that the sequential baselines share, number by number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def norm(x: Tensor, layer: Any) -> Tensor:
    """Layer norm of one vector."""
    return layer.weight * (x - x.mean()) / ((x - x.mean()).square().mean() + layer.eps).sqrt() + (
        layer.bias
    )


def gelu(x: Tensor) -> Tensor:
    """GELU without approximation."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def embedded(model: Any, history: list[int]) -> tuple[list[int], Tensor]:
    """A history padded on the left, and its states before the first layer."""
    items = [0] * (model.max_seq_length - len(history)) + history
    rows = [
        norm(model.item_embedding.weight[i] + model.position_embedding.weight[n], model.norm)
        for n, i in enumerate(items)
    ]
    return items, torch.stack(rows)
