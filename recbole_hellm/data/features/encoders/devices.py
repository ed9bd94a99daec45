"""Where encoders run, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def default_device() -> torch.device:
    """A CUDA GPU, else Apple's, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def working_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a CUDA GPU that computes in it, float32 elsewhere."""
    import torch

    from recbole_hellm.models.pretrained import computes_in_bfloat16

    halved = device.type == "cuda" and computes_in_bfloat16(device)
    return torch.bfloat16 if halved else torch.float32


class OnDefaultDevice:
    """What encoders share whose model is on :func:`default_device`."""

    @property
    def precision(self) -> str:
        """Type of the weights and kind of device, for example ``bfloat16 on cuda``."""
        device = default_device()
        return f"{str(working_dtype(device)).removeprefix('torch.')} on {device.type}"
