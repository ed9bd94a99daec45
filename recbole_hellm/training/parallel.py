"""How one model is trained: by one process, by copies in several, or cut into shards over them."""

from __future__ import annotations

import contextlib
import inspect
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.training.distributed import Processes, current

Optimizers = Mapping[str, torch.optim.Optimizer]


class SingleProcess:
    """The whole model in one process.

    Parameters
    ----------
    model : nn.Module
        With ``calculate_loss`` and ``full_sort_predict``.
    processes : Processes
        Those that train it.
    """

    name = "whole"

    def __init__(self, model: Any, processes: Processes) -> None:
        self.model = model
        self.processes = processes

    def loss(self, interaction: Any) -> Any:
        """The model's loss of some rows."""
        return self.model.calculate_loss(interaction)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Around a part's passes forth and back; gradients are summed over processes at the last.

        The sum is divided by the number of processes.
        """
        return contextlib.nullcontext()

    def end_evaluation(self) -> None:
        """Called when the model has scored for a while."""

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's state as one process alone would have it; empty in the other processes."""
        return self.model.state_dict()

    def load_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load what :meth:`weights` gave, in any way of training."""
        self.model.load_state_dict(state)

    def save(self, run: RunDirectory, epoch: int, optimizers: Optimizers) -> dict[str, Any]:
        """What continues the training: states themselves, or where they were written."""
        return {
            "model": self.model.state_dict(),
            "optimizers": {name: part.state_dict() for name, part in optimizers.items()},
        }

    def load(self, run: RunDirectory, state: Mapping[str, Any], optimizers: Optimizers) -> None:
        """Continue with what :meth:`save` gave."""
        self.model.load_state_dict(state["model"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])

    def forget(self, run: RunDirectory, state: Mapping[str, Any]) -> None:
        """Remove what no checkpoint needs now that this one is written."""


class _Loss(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, interaction: Any) -> Any:
        return self.model.calculate_loss(interaction)


class DDP(SingleProcess):
    """A copy of the model in each process, kept equal by averaging gradients (DDP)."""

    name = "ddp"

    def __init__(self, model: Any, processes: Processes) -> None:
        super().__init__(model, processes)
        ddp = nn.parallel.DistributedDataParallel
        # Nothing in a buffer changes in training; the option has had two names.
        names = ("forward_sync_buffers", "broadcast_buffers")
        buffers = next(name for name in names if name in inspect.signature(ddp).parameters)
        options: dict[str, Any] = {buffers: False, "gradient_as_bucket_view": True}
        self.averaged = ddp(_Loss(model), **options)

    def loss(self, interaction: Any) -> Any:
        return self.averaged(interaction)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self.averaged.no_sync()


class FSDP(SingleProcess):
    """A shard of every weight in each process, put together layer by layer (FSDP2).

    The model's ``blocks`` are its layers; what else it has makes one more unit.
    """

    name = "fsdp"

    def __init__(self, model: Any, processes: Processes, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        super().__init__(model, processes)
        mesh = init_device_mesh(device.type, (processes.size,))
        # Weights are moved to the device and cut there unit by unit, so none need hold all.
        self.units = [*model.blocks, model]
        for unit in self.units:
            fully_shard(unit, mesh=mesh)
        for method in ("calculate_loss", "full_sort_predict"):
            register_fsdp_forward_method(model, method)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        self.model.set_requires_gradient_sync(last)
        return contextlib.nullcontext()

    def end_evaluation(self) -> None:
        for unit in self.units:
            unit.reshard()  # else the outer one would stay whole, and old once weights change

    def weights(self) -> dict[str, torch.Tensor]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = get_model_state_dict(self.model, options=options)
        return state

    def load_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(
            self.model, dict(state), options=StateDictOptions(full_state_dict=True)
        )

    def save(self, run: RunDirectory, epoch: int, optimizers: Optimizers) -> dict[str, Any]:
        from torch.distributed import checkpoint

        # A folder of its own, so that the one before stays whole until last.pt names this one.
        shards = f"last/{epoch}"
        if self.processes.first:
            shutil.rmtree(run.file(shards), ignore_errors=True)
        self.processes.barrier()
        checkpoint.save(
            self._parts(optimizers),
            checkpoint_id=str(run.file(shards)),
            process_group=self.processes.group,
        )
        return {"shards": shards}

    def load(self, run: RunDirectory, state: Mapping[str, Any], optimizers: Optimizers) -> None:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.state_dict import set_state_dict

        parts = self._parts(optimizers)
        checkpoint.load(
            parts,
            checkpoint_id=str(run.file(state["shards"])),
            process_group=self.processes.group,
        )
        set_state_dict(
            self.model,
            list(optimizers.values()),
            model_state_dict=parts["model"],
            optim_state_dict=parts["optimizers"],
        )

    def forget(self, run: RunDirectory, state: Mapping[str, Any]) -> None:
        if self.processes.first:
            kept = run.file(state["shards"])
            for folder in kept.parent.iterdir():
                if folder != kept:
                    shutil.rmtree(folder)

    def _parts(self, optimizers: Optimizers) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, states = get_state_dict(self.model, list(optimizers.values()))
        return {"model": model, "optimizers": states}


def way_of(config: Any) -> type[SingleProcess]:
    """The way in which the model of `config` is trained by the processes there are."""
    if current().size == 1:
        return SingleProcess
    return FSDP if TrainingSettings.from_config(config).parallel == "fsdp" else DDP


def building_device(config: Any) -> torch.device:
    """Where the model of `config` is built, before it is shared out: a whole one may not fit."""
    return torch.device("cpu") if way_of(config) is FSDP else config["device"]


def share_out(config: Any, model: Any) -> SingleProcess:
    """Prepare `model` for the processes there are; its parameters may be replaced."""
    way = way_of(config)
    if way is FSDP:
        return FSDP(model, current(), config["device"])
    return way(model, current())


def check_shareable(config: Any, model: Any) -> None:
    """Refuse at once, before any stage is trained, what could not be trained in shards.

    Raises
    ------
    ConfigError
        As the model's ``blocks`` says.
    """
    if way_of(config) is FSDP:
        _ = model.blocks
