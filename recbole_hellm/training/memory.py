"""Peak memory of a computation, and glibc's handling of freed memory."""

from __future__ import annotations

import ctypes
import os
import sys

import psutil
import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of glibc's ``malloc.h``."""


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU if one is used, else of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # on Windows, psutil has the peak
        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of returning it; Linux with glibc.

    glibc maps every block of more than 32 MiB anew, and the kernel zeroes each page at its first
    use. A step over tables of that size (131,072 nodes of 64 numbers) spends half of its time on
    this (benchmarks/pretrain_step.py). The process keeps its peak memory until it ends. Nothing is
    changed if the environment sets glibc's variables (``MALLOC_*_``, ``GLIBC_TUNABLES``) or another
    allocator.

    Returns
    -------
    bool
        Whether the options were set.
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
