"""Processes that share one run, started by ``torchrun``; a single process needs none of this.

The first process writes all files. It also trains the models whose batches cannot be divided; the
others wait.
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
"""Timeout for another process's part of a step."""
WAITING = datetime.timedelta(hours=12)
"""Timeout for work that one process does alone, such as preparing data or training a stage."""
GRACE = datetime.timedelta(seconds=3)
"""How long a failing process waits for the first process to report the same error."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of this run, and the rank of this one.

    Attributes
    ----------
    rank : int
        From 0; the first process has rank 0.
    size : int
    group : ProcessGroup, optional
        Exchanges Python objects; ``None`` in a run of one process.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier(group=self.group)

    @contextlib.contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Run the block in the first process before the others."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()


_current = Processes()


def current() -> Processes:
    """The processes that share the current work."""
    return _current


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Run the block in this process alone."""
    global _current
    outer, _current = _current, Processes()
    try:
        yield
    finally:
        _current = outer


@contextlib.contextmanager
def process_group() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, until the end of the block.

    Does nothing if ``WORLD_SIZE`` is 1 or missing, or if the processes are joined already. An error
    in one process ends all of them.

    Raises
    ------
    ConfigError
        If the environment is incomplete, or there are fewer GPUs than processes on this machine.
    RunError
        In the other processes when one process ends with an error.
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
        logging.disable(logging.WARNING)  # the first process logs the same messages
    leave = True
    try:
        yield _current
    except BaseException as error:
        leave = not _on_gpu()  # leaving would wait for messages that never come
        reported = _reported_error(error, rank, size, store)
        if reported is error:
            raise
        raise reported from None
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
            "torchrun, or unset WORLD_SIZE."
        )
    if not (dist.is_available() and dist.is_gloo_available()):
        raise ConfigError(
            "This PyTorch lacks gloo, which several processes need; start one process."
        )
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    if _on_gpu():
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"Process {local} of this machine has no GPU, since the machine has only "
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


def _reported_error(error: BaseException, rank: int, size: int, store: Any) -> BaseException:
    """The error to raise: this process's own, or a note on the other process that caused it."""
    original = isinstance(error, HellmError) or not isinstance(error, Exception)
    others = [] if original else [other for other in range(size) if other != rank]
    try:
        ended = [other for other in others if store.check([str(other)])]
        if not ended:
            store.set(str(rank), str(error))
            if original and rank > 0:
                store.wait(["0"], GRACE)
                if store.get("0").decode() == str(error):
                    return SystemExit(2)  # the first process reports it
    except RuntimeError:  # the other processes have ended, or did not answer in time
        ended = [0] if others else []
    if ended or (not original and "Connection" in str(error)):
        name = f"Process {ended[0]}" if ended else "Another process"
        return RunError(
            f"{name} of this run has ended, so this one (process {rank}) ends too; see the other "
            "process's output for the error."
        )
    return error
