"""How much memory a computation took, and how glibc deals with what is freed."""

from __future__ import annotations

import ctypes
import os
import sys

import psutil
import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of glibc's ``malloc.h``."""


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


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of giving it back; Linux with glibc.

    glibc maps every block of more than 32 MiB anew, and the kernel fills each of its pages with
    zeros when it is first touched: a step over tables of that size (131,072 nodes of 64 numbers)
    spends half of its time so (benchmarks/pretrain_step.py). The process keeps its peak of memory
    until it ends. Whoever has set glibc's own variables (``MALLOC_*_``, ``GLIBC_TUNABLES``)
    or taken another allocator is not overruled.

    Returns
    -------
    bool
        Whether it was done.
    """
    if any(key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for key in os.environ):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018 - absent from musl, whose mallopt does nothing
        options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
        return all(libc.mallopt(*option) == 1 for option in options)
    except (OSError, AttributeError):
        return False
