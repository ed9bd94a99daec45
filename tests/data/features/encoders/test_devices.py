"""Where encoders run, and in which precision."""

from __future__ import annotations

import pytest
import torch

from recbole_hellm.data.features.encoders.devices import OnDevice, working_dtype
from recbole_hellm.errors import ConfigError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with one CUDA GPU that computes in bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def on(name: str) -> OnDevice:
    encoder = OnDevice()
    encoder.device_name = name
    return encoder


def test_half_precision_on_a_gpu_and_float32_elsewhere(machine: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "mps"):
        assert working_dtype(torch.device(name)) == torch.float32
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        machine.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        assert working_dtype(torch.device("cuda")) == dtype


def test_encoders_take_a_gpu_by_themselves(machine: pytest.MonkeyPatch) -> None:
    assert OnDevice().device == on("auto").device == torch.device("cuda")
    machine.setattr(torch.cuda, "is_available", lambda: False)
    assert OnDevice().device == torch.device("cpu")
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert OnDevice().device == torch.device("mps")  # training does not take it by itself


@pytest.mark.usefixtures("machine")
def test_a_named_device_is_taken() -> None:
    assert on("cpu").device == torch.device("cpu")
    assert on("cuda:0").device == torch.device("cuda:0")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device='gpu' is not known; use auto, cpu, cuda"),
        ("cuda:1", "device=cuda:1 does not exist, since PyTorch finds 1 CUDA GPUs"),
        ("mps", "device=mps does not exist on this machine"),
    ],
)
def test_other_devices_are_refused(name: str, message: str) -> None:
    encoder = on(name)
    with pytest.raises(ConfigError, match=message):
        _ = encoder.device
    with pytest.raises(ConfigError, match=message):
        _ = encoder.precision


@pytest.mark.usefixtures("machine")
def test_precision_names_the_type_and_the_kind_of_device() -> None:
    assert on("cpu").precision == "float32 on cpu"
    assert on("cuda:0").precision == OnDevice().precision == "bfloat16 on cuda"
