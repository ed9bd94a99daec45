"""How much memory a computation took."""

from __future__ import annotations

import sys

import psutil
import torch


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU where one is used, else of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows, whose peak is in psutil
        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
