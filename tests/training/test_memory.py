from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from recbole_hellm.training.memory import peak_memory_mb


def test_memory_is_measured() -> None:
    assert 10 < peak_memory_mb(torch.device("cpu")) < 1e6


def test_a_peak_stays() -> None:
    before = peak_memory_mb(torch.device("cpu"))
    torch.ones(int((before + 64) * 2**18))  # as many MiB, given back at once
    assert peak_memory_mb(torch.device("cpu")) >= before + 32


FAULTS = """
import resource, torch
from recbole_hellm.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)  # 64 MiB, given back at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
print(int(keep_freed_memory()), usual, min(faults() for _ in range(4)))
"""


def after_large_blocks(**variables: str) -> list[int]:
    """Whether freed memory is kept, and page faults for large blocks without and with it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", FAULTS],
        env=clean | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts no page faults")
def test_large_blocks_are_used_again() -> None:
    kept, usual, afterwards = after_large_blocks()
    if not kept:
        pytest.skip("this C library is not glibc")
    assert usual > 100
    assert afterwards < usual / 50


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts no page faults")
def test_what_the_user_told_glibc_holds() -> None:
    assert after_large_blocks(MALLOC_ARENA_MAX="2")[0] == 0
