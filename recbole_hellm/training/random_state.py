"""All random states of a process, as tensors that a ``weights_only`` checkpoint can hold."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
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
    }
    state["torch"], *cuda = _of_torch()
    return state | ({"cuda": cuda} if cuda else {})


def restore(state: dict[str, Any]) -> None:
    """Set the states that :func:`capture` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    _set_torch([state["torch"], *state.get("cuda", [])])


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
    if not all(map(torch.equal, own, first)):
        _set_torch(own)


def _of_torch() -> list[torch.Tensor]:
    """The state of the CPU's generator, and that of this process's GPU if there is one."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def _set_torch(states: Sequence[torch.Tensor]) -> None:
    cpu, *cuda = states
    torch.set_rng_state(cpu.cpu())
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda[0].cpu())
