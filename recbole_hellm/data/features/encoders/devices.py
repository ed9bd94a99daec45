"""Where encoders run, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_hellm.config.devices import AUTO, choose_device

if TYPE_CHECKING:
    import torch


def working_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a CUDA GPU that computes in it, float32 elsewhere."""
    import torch

    from recbole_hellm.models.pretrained import computes_in_bfloat16

    halved = device.type == "cuda" and computes_in_bfloat16(device)
    return torch.bfloat16 if halved else torch.float32


class OnDevice:
    """What encoders share that compute with PyTorch.

    Attributes
    ----------
    device_name : str
        ``auto`` (a CUDA GPU, else Apple's, else the CPU), or a device as PyTorch names it.
    """

    device_name: str = AUTO

    @property
    def device(self) -> torch.device:
        """Where the encoder computes; raises :class:`ConfigError` if there is no such device."""
        return choose_device(self.device_name, mps=True)

    @property
    def precision(self) -> str:
        """Type of the weights and kind of device, for example ``bfloat16 on cuda``."""
        device = self.device
        return f"{str(working_dtype(device)).removeprefix('torch.')} on {device.type}"
