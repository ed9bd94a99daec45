"""Checkpoints of a trainer: the last epoch, to resume from, and the best weights."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch

from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.errors import RunError, reason
from recbole_hellm.models.averaging import WeightAverage
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.training import random_state
from recbole_hellm.training.batching import TokenCount
from recbole_hellm.training.model_state import (
    LooseState,
    pack_other,
    restore_loose_values,
    unpack,
)
from recbole_hellm.training.parallel import SingleProcess

logger = logging.getLogger(__name__)

COUNTERS = (
    *("step", "cur_step", "best_epoch", "best_valid_score", "best_valid_result"),
    *("finished_training", "history", "train_seconds", "seen_samples"),
)
"""Plain values of a trainer that resuming restores."""


class Checkpoints:
    """Saving and restoring of a trainer; a base class of ``RunTrainer``."""

    config: Any
    settings: TrainingSettings
    model: Any
    run: RunDirectory
    device: torch.device
    parallel: SingleProcess
    scaler: torch.amp.GradScaler
    train_cpu_seconds: float
    seen_tokens: TokenCount
    curves: dict[int, dict[str, float]]
    loose_state: LooseState
    average: WeightAverage
    best_valid_score: float
    start_epoch: int
    best_epoch: int

    def _model_state(self, epoch: int) -> dict[str, Any]:
        """The state that scoring needs, independent of the number of processes."""
        return {
            "epoch": epoch,
            "model": self.parallel.weights(),
            "other": pack_other(self.model),
        }

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        optimizers = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, torch.optim.Optimizer)
        }
        # RecBole's trainers with several optimizers alias the current one as `optimizer`.
        if len(optimizers) > 1:
            optimizers.pop("optimizer", None)
        return optimizers

    def _save_checkpoint(
        self, epoch: int, verbose: bool = True, *, train_data: Any = None, **kwargs: Any
    ) -> None:
        """Save the full state for ``--resume``; answers trainer.py:283, which pickles it."""
        processes = self.parallel.processes
        random, *others = processes.gather(random_state.capture())
        state = self.parallel.save(self.run, epoch, self._optimizers()) | {
            "epoch": epoch,
            "other": pack_other(self.model),
            "loose_values": self.loose_state.save(),
            "average": self.average.state_dict(),
            **{name: getattr(self, name) for name in COUNTERS},
            "best_valid_score": float(self.best_valid_score),
            "train_cpu_seconds": self.train_cpu_seconds,
            "seen_tokens": dataclasses.asdict(self.seen_tokens),
            "curves": self.curves,
            "scaler": self.scaler.state_dict(),
            "loader": train_data.state_dict() if train_data is not None else None,
            "random": random,
        }
        if others:
            state |= {"random_of_others": others, "parallel": self.parallel.name}
        self.run.save_checkpoint(self.run.last_checkpoint, state)
        self.parallel.forget(self.run, state)

    def resume_checkpoint(self, resume_file: Any, train_data: Any = None) -> None:
        """Restore the state after the last finished epoch; answers trainer.py:308.

        Raises
        ------
        RunError
            If the checkpoint was written by another number of processes, with another value of
            `parallel`, or by other code of the model.
        """
        state = self.run.load_checkpoint(resume_file, self.device)
        processes = self.parallel.processes
        others = state.get("random_of_others", [])
        size, parallel = 1 + len(others), state.get("parallel", SingleProcess.name)
        if (size, parallel) != (processes.size, self.parallel.name):
            raise RunError(
                f"{resume_file} was written by {size} processes (parallel={parallel}) and "
                f"cannot be resumed by {processes.size} (parallel={self.parallel.name}); start "
                "the same number of processes with the same setting, or leave --resume out to "
                "train again."
            )
        try:
            self.parallel.load(self.run, state, self._optimizers())
            self.model.load_other_parameter(unpack(state["other"]))
            restore_loose_values(self.model, state["loose_values"])
            if self.settings.weight_averaging != "none":
                self.average.load_state_dict(state["average"])
            for name in COUNTERS:
                setattr(self, name, state[name])
            # Checkpoints of earlier versions lack these values.
            self.train_cpu_seconds = state.get("train_cpu_seconds", 0.0)
            self.seen_tokens = TokenCount(**state.get("seen_tokens", {}))
            self.curves = dict(state.get("curves", {}))
            self.scaler.load_state_dict(state.get("scaler", {}))
            self.start_epoch = state["epoch"] + 1
            if train_data is not None and state["loader"] is not None:
                train_data.load_state_dict(
                    {name: value.cpu() for name, value in state["loader"].items()}
                )
            random_state.restore([state["random"], *others][processes.rank])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise RunError(
                f"{resume_file} does not fit the code of {self.config['model']} "
                f"({reason(error)}); train again with --force."
            ) from error
        if self.best_epoch >= 0:
            # Before training goes on, since it is needed in the end.
            self.run.check_checkpoint(self.run.best_checkpoint)
        logger.info("Resuming %s after epoch %d.", self.config["model"], self.start_epoch)

    def load_best(self) -> None:
        """Load the weights of the best validation epoch."""
        self.parallel.processes.barrier()  # wait until they are written
        state = self.run.load_checkpoint(self.run.best_checkpoint, self.device)
        self.parallel.load_weights(state["model"])
        self.model.load_other_parameter(unpack(state["other"]))
