"""Training of one model: by one process, by copies in several, or by shards over several."""

from __future__ import annotations

import contextlib
import inspect
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import nn

from recbole_hellm.config.settings import require
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.models.portions import Portion
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
        The processes that train the model.
    """

    name = "whole"

    def __init__(self, model: Any, processes: Processes) -> None:
        self.model = model
        self.processes = processes

    def loss(self, interaction: Any, calculate: Callable[[Any], Any] | None = None) -> Any:
        """The model's loss of some rows, by another function than its own if one is given."""
        return (calculate or self.model.calculate_loss)(interaction)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Context of a part's forward and backward pass.

        Gradients are averaged over processes in the last part of a batch.
        """
        return contextlib.nullcontext()

    def end_evaluation(self) -> None:
        """Called after an evaluation."""

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's full state; empty in all but the first process."""
        return self.model.state_dict()

    def load_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the full state from :meth:`weights`."""
        self.model.load_state_dict(state)

    def save(self, run: RunDirectory, epoch: int, optimizers: Optimizers) -> dict[str, Any]:
        """The state to resume from, or the folder it was written to."""
        return {
            "model": self.model.state_dict(),
            "optimizers": {name: part.state_dict() for name, part in optimizers.items()},
        }

    def load(self, run: RunDirectory, state: Mapping[str, Any], optimizers: Optimizers) -> None:
        """Restore the state from :meth:`save`."""
        self.model.load_state_dict(state["model"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])

    def forget(self, run: RunDirectory, state: Mapping[str, Any]) -> None:
        """Remove files that no checkpoint needs once this one is written."""


class _Loss(nn.Module):
    def __init__(self, model: Any, portion: Portion) -> None:
        super().__init__()
        self.model, self.portion = model, portion

    def forward(self, interaction: Any, calculate: Callable[[Any], Any] | None) -> Any:
        if calculate is not None:
            return calculate(interaction)
        if hasattr(self.model, "portion_loss"):
            return self.model.portion_loss(interaction, self.portion)
        return self.model.calculate_loss(interaction)


class DDP(SingleProcess):
    """A copy of the model in each process; averaged gradients keep the copies equal (DDP).

    Parameters
    ----------
    model : nn.Module
        May have ``portion_loss(interaction, portion)``, see :class:`~recbole_hellm.models.general.
        base.PortionRecommender`.
    processes : Processes
    unused : {"none", "same", "any"}
        Parameters that the loss leaves out, such as those of a term without weight: none, the same
        ones in every step, or any, which are searched for in every step.
    """

    name = "ddp"

    def __init__(
        self, model: Any, processes: Processes, unused: Literal["none", "same", "any"] = "none"
    ) -> None:
        super().__init__(model, processes)
        ddp = nn.parallel.DistributedDataParallel
        # Training changes no buffer. PyTorch has renamed the option.
        names = ("forward_sync_buffers", "broadcast_buffers")
        buffers = next(name for name in names if name in inspect.signature(ddp).parameters)
        options: dict[str, Any] = {buffers: False, "gradient_as_bucket_view": True}
        options |= {"static_graph": unused == "same", "find_unused_parameters": unused == "any"}
        self.averaged = ddp(_Loss(model, Portion(processes.rank, processes.size)), **options)

    def loss(self, interaction: Any, calculate: Callable[[Any], Any] | None = None) -> Any:
        return self.averaged(interaction, calculate)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self.averaged.no_sync()


class FSDP(SingleProcess):
    """A shard of every weight in each process, gathered layer by layer (FSDP2).

    The units are the model's ``blocks`` and the rest of the model.
    """

    name = "fsdp"

    def __init__(self, model: Any, processes: Processes, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        super().__init__(model, processes)
        mesh = init_device_mesh(device.type, (processes.size,))
        # Each unit is moved to the device and sharded in turn, so no device holds the full model.
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
            unit.reshard()  # the outer unit would stay gathered and become outdated

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

        # A new folder: the previous one stays intact until last.pt names this one.
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
            current_shards = run.file(state["shards"])
            for folder in current_shards.parent.iterdir():
                if folder != current_shards:
                    shutil.rmtree(folder)

    def _parts(self, optimizers: Optimizers) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, states = get_state_dict(self.model, list(optimizers.values()))
        return {"model": model, "optimizers": states}


def parallel_kind(config: Any) -> type[SingleProcess]:
    """How the current processes train the model of `config`."""
    if current().size == 1:
        return SingleProcess
    return FSDP if TrainingSettings.from_config(config).parallel == "fsdp" else DDP


def building_device(config: Any) -> torch.device:
    """The device on which the model of `config` is built; the full model may not fit on a GPU."""
    return torch.device("cpu") if parallel_kind(config) is FSDP else config["device"]


def distribute(config: Any, model: Any) -> SingleProcess:
    """Distribute `model` over the current processes; its parameters may be replaced."""
    kind, processes = parallel_kind(config), current()
    if kind is FSDP:
        return FSDP(model, processes, config["device"])
    if kind is DDP and any(parameter.requires_grad for parameter in model.parameters()):
        if config.entry.kind == "LLM":
            return DDP(model, processes)
        return DDP(model, processes, "any" if config.entry.outside else "same")
    return SingleProcess(model, processes)


def check_shareable(config: Any, model: Any) -> None:
    """Refuse a model that cannot be sharded, before any stage is trained.

    Raises
    ------
    ConfigError
        If its weights are to be averaged, or it has no ``blocks``, or these raise it.
    """
    if parallel_kind(config) is FSDP:
        averaging = TrainingSettings.from_config(config).weight_averaging
        require(
            averaging == "none",
            f"weight_averaging={averaging} averages whole weights, of which parallel=fsdp leaves "
            "each process a shard; use --parallel=ddp, or leave weight_averaging out.",
        )
        require(
            hasattr(model, "blocks"),
            f"parallel=fsdp shards language models, and {config['model']} is none; use "
            "--parallel=ddp, or --HeLLM.parallel=fsdp for one of several models.",
        )
        _ = model.blocks
