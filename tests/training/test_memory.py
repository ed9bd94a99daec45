from __future__ import annotations

import torch

from recbole_hellm.training.memory import peak_memory_mb


def test_memory_is_measured() -> None:
    assert 10 < peak_memory_mb(torch.device("cpu")) < 1e6


def test_a_peak_stays() -> None:
    before = peak_memory_mb(torch.device("cpu"))
    torch.ones(int((before + 64) * 2**18))  # as many MiB, given back at once
    assert peak_memory_mb(torch.device("cpu")) >= before + 32
