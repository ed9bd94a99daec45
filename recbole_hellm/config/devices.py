"""The device of training, evaluation and encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_hellm.errors import ConfigError

if TYPE_CHECKING:
    import torch

AUTO = "auto"
DEVICE_HELP = "Where to compute: auto (a CUDA GPU if there is one), cpu, cuda, cuda:1, mps."


def choose_device(name: str = AUTO, gpu: bool = True, mps: bool = False) -> torch.device:
    """The device of that name.

    Parameters
    ----------
    name : str
        ``auto``, or a device as PyTorch names it.
    gpu, mps : bool
        Whether ``auto`` may use a GPU, and whether Apple's GPU (mps) counts as one.

    Raises
    ------
    ConfigError
        If PyTorch does not support the device, or this machine lacks it.
    """
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    apple = torch.backends.mps.is_available()
    if name == AUTO:
        if gpu and cuda:
            return torch.device("cuda")
        return torch.device("mps" if gpu and mps and apple else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device={name!r} is not known; use auto, cpu, cuda, cuda:1 or mps."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= cuda:
        raise ConfigError(
            f"device={name} does not exist, since PyTorch finds {cuda} CUDA GPUs; use auto or cpu."
        )
    if device.type == "mps" and not apple:
        raise ConfigError("device=mps does not exist on this machine; use auto or cpu.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device={name} is not supported; use auto, cpu, cuda, cuda:1 or mps.")
    return device
