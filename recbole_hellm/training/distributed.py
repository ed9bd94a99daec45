"""The processes that share one run, as ``torchrun`` starts them; one process needs none of this.

The first process writes all files and trains whatever cannot be shared, while the others wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
from collections.abc import Iterator
from typing import Any

from recbole_hellm.errors import ConfigError, HellmError, RunError

COMPUTING = datetime.timedelta(hours=1)
"""Longest wait for another process's part of a step."""
WAITING = datetime.timedelta(hours=12)
"""Longest wait for what one process does alone: preparing data, training a stage."""
GRACE = datetime.timedelta(seconds=3)
"""How long a process that fails waits to hear whether the first one fails for the same reason."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of this run, and which of them this one is.

    Attributes
    ----------
    rank : int
        From 0; the first process has rank 0.
    size : int
    group : ProcessGroup, optional
        What Python objects travel through; ``None`` in a run of one process.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The value that each process gives, in the order of their ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: Any) -> Any:
        """The value that the first process gives, once it comes here."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def barrier(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier(group=self.group)

    @contextlib.contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Let the first process do something before the others, who find it done."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()


_current = Processes()


def current() -> Processes:
    """The processes that share what is being done."""
    return _current


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let this process do something that the others have no part in."""
    global _current
    outer, _current = _current, Processes()
    try:
        yield
    finally:
        _current = outer


@contextlib.contextmanager
def process_group() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, until the end of the block.

    Where the environment names no others (``WORLD_SIZE``), or they are joined already, nothing
    happens. An error of one process ends all of them.

    Raises
    ------
    ConfigError
        If the environment is incomplete, or there are fewer GPUs than processes on this machine.
    RunError
        In the processes that go on when another one ends with an error.
    """
    global _current
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or _current.size > 1:
        yield _current
        return
    store, _current = _join(size)
    rank = _current.rank
    level = logging.root.manager.disable
    if rank > 0:
        logging.disable(logging.WARNING)  # the first process says the same
    leave = True
    try:
        yield _current
    except BaseException as error:
        leave = not _on_gpu()  # leaving would wait for what the others will never send
        told = _end(error, rank, size, store)
        if told is error:
            raise
        raise told from None
    finally:
        logging.disable(level)
        _current = Processes()
        if leave:
            import torch.distributed as dist

            dist.destroy_process_group()


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _join(size: int) -> tuple[Any, Processes]:
    import torch
    import torch.distributed as dist

    missing = [key for key in ("RANK", "MASTER_ADDR", "MASTER_PORT") if key not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={size} is set without {', '.join(missing)}; start several processes with "
            "torchrun, or unset it."
        )
    if not (dist.is_available() and dist.is_gloo_available()):
        raise ConfigError("This PyTorch has no gloo, which several processes need; start only one.")
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    if _on_gpu():
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"Process {local} of this machine has no GPU, since there are only "
                f"{torch.cuda.device_count()}; start one process per GPU, or train on the CPU with "
                "CUDA_VISIBLE_DEVICES= (empty)."
            )
        torch.cuda.set_device(local)
    rank = int(os.environ["RANK"])
    store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=COMPUTING))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if _on_gpu() else "gloo",
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=COMPUTING,
    )
    group = dist.new_group(backend="gloo", timeout=WAITING)
    return dist.PrefixStore("ends", store), Processes(rank, size, group)


def _end(error: BaseException, rank: int, size: int, store: Any) -> BaseException:
    """What this process ends with: its own error, or a word on another's that led to it."""
    own = isinstance(error, HellmError) or not isinstance(error, Exception)
    others = [] if own else [other for other in range(size) if other != rank]
    try:
        ended = [other for other in others if store.check([str(other)])]
        if not ended:
            store.set(str(rank), str(error))
            if own and rank > 0:
                store.wait(["0"], GRACE)
                if store.get("0").decode() == str(error):
                    return SystemExit(2)  # the first process tells it
    except RuntimeError:  # nobody else is there any more, or nothing was heard
        ended = [0] if others else []
    if ended or (not own and "Connection" in str(error)):
        name = f"Process {ended[0]}" if ended else "Another process"
        return RunError(
            f"{name} of this run has ended, as its own output or torchrun's tells; this one "
            f"(process {rank}) ends with it."
        )
    return error
