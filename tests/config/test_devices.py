from __future__ import annotations

import pytest
import torch

from recbole_hellm.config.devices import choose_device
from recbole_hellm.errors import ConfigError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two CUDA GPUs and without Apple's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def test_auto_takes_what_is_there_and_allowed(machine: pytest.MonkeyPatch) -> None:
    assert choose_device() == torch.device("cuda")
    assert choose_device(gpu=False) == torch.device("cpu")
    machine.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == choose_device(mps=True) == torch.device("cpu")
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == torch.device("cpu")
    assert choose_device(mps=True) == torch.device("mps")
    assert choose_device(gpu=False, mps=True) == torch.device("cpu")


@pytest.mark.usefixtures("machine")
def test_a_named_device_is_taken_whatever_auto_may_use() -> None:
    for name in ("cpu", "cuda", "cuda:1"):
        assert choose_device(name, gpu=False) == torch.device(name)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpu", "device='gpu' is not known; use auto, cpu, cuda"),
        ("cuda:2", "device=cuda:2 does not exist, since PyTorch finds 2 CUDA GPUs"),
        ("mps", "device=mps does not exist on this machine"),
        ("meta", "device=meta is not supported"),
    ],
)
def test_other_devices_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        choose_device(name)


def test_cuda_without_a_gpu_is_refused(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="PyTorch finds 0 CUDA GPUs; use auto or cpu"):
        choose_device("cuda")
