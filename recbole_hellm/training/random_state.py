"""All random states of a process, as tensors that a ``weights_only`` checkpoint can hold."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch

from recbole_hellm.training.distributed import Processes


def capture() -> dict[str, Any]:
    """States of Python's, numpy's and torch's generators."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = cast(Any, np.random.get_state())
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [torch.cuda.get_rng_state()]  # of this process's device
    return state


def restore(state: dict[str, Any]) -> None:
    """Set the states that :func:`capture` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0].cpu())


@contextlib.contextmanager
def drawn_alike(processes: Processes) -> Iterator[None]:
    """Draw torch's random numbers in all processes as the first one draws them, within the block.

    Afterwards each process goes on with its own numbers. Python's and numpy's are the same in all
    processes anyway, since only dropout differs, which is torch's.
    """
    if processes.size == 1:
        yield
        return
    own = _of_torch()
    first = processes.broadcast(own)
    _set_torch(first)
    yield
    if not all(torch.equal(own[name], first[name]) for name in own):
        _set_torch(own)


def _of_torch() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_torch(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
