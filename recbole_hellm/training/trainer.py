"""RecBole's trainer with safe checkpoints, exact resuming and this package's evaluation."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from recbole.trainer import Trainer
from torch.utils.tensorboard import SummaryWriter

from recbole_hellm.compat import tensorboard_writer
from recbole_hellm.evaluation.evaluator import Evaluation, Evaluator
from recbole_hellm.tracking import RunDirectory
from recbole_hellm.training import random_state
from recbole_hellm.training.batching import Cutter, TokenCount
from recbole_hellm.training.epoch import TrainingPass
from recbole_hellm.training.model_state import (
    loose_values,
    pack_other,
    restore_loose_values,
    unpack,
)
from recbole_hellm.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

OPTIMIZERS = {  # the keys are settings.LEARNERS
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU where one is used, else of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows, whose peak is in psutil
        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class RunTrainer(Trainer):
    """Train, select by validation, evaluate once on test; :class:`HellmTrainer` for most models.

    RecBole's special trainers are combined with it by :func:`recbole_hellm.registry.trainer_class`.

    Parameters
    ----------
    config : HellmConfig
    model : AbstractRecommender
    run : RunDirectory
        Where checkpoints and TensorBoard events go.
    evaluator : Evaluator
    train_stage : callable, optional
        Trains, or finds in the cache, the run that a stage's configuration describes.
    """

    # Set by RecBole's constructor, which is not annotated.
    epochs: int
    cur_step: int
    best_valid_score: float
    step: int
    seen_samples: int

    def __init__(
        self,
        config: Any,
        model: Any,
        run: RunDirectory,
        evaluator: Evaluator,
        train_stage: Callable[[Any], RunDirectory] | None = None,
    ) -> None:
        self.settings = TrainingSettings.from_config(config)
        self.run = run
        self.ranking = evaluator
        self.train_stage = train_stage
        self.masking: str = config["mask_history"]
        config["checkpoint_dir"] = str(run.path)
        writer = SummaryWriter(str(run.path), flush_secs=10)
        with tensorboard_writer(writer):
            super().__init__(config, model)
        self.stopping_step = config["stopping_step"]
        self.epochs = min(self.epochs, self.settings.epochs)
        self.step = 0
        self.best_epoch = -1
        self.finished_training = False
        self.history: list[dict[str, float]] = []
        self.train_seconds = 0.0
        self.seen_samples = 0
        self.seen_tokens = TokenCount()
        self.loss_parts: dict[str, float] = {}
        self.cutter = Cutter(model, config, self.settings.max_tokens)
        # Half-precision gradients would vanish unscaled; else it does nothing.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=getattr(model, "loss_scaling", False)
        )

    def prepare(self, dataset: Any) -> dict[str, str]:
        """Get ready what the model needs before training; nothing here.

        Returns
        -------
        dict of str to str
            Run directories of the stages this training stands on, by role.
        """
        return {}

    # RecBole's steps, overridden ----------------------------------------------------------------

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """Answers trainer.py:139: parameter groups, betas, and no silent fall-back to Adam."""
        name = self.settings.learner.lower()
        options: dict[str, Any] = {"lr": self.settings.learning_rate}
        if name in ("adam", "adamw"):
            # One kernel for all parameters: the same update, without temporaries per step.
            options |= {"betas": tuple(self.settings.betas), "fused": True}
        decay = self.settings.weight_decay
        given = kwargs.pop("params", None)
        if given is None and hasattr(self.model, "parameter_groups"):
            groups = self.model.parameter_groups(decay)
        else:
            parameters = self.model.parameters() if given is None else given
            groups = [p for p in parameters if p.requires_grad]
            options["weight_decay"] = decay
        if not groups:
            # RecBole's counting models (Pop, ItemKNN) hold one dummy parameter; others may none.
            groups = [torch.nn.Parameter(torch.zeros(1))]
        return OPTIMIZERS[name](groups, **options)

    def fit(  # type: ignore[override]
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> tuple[float, dict[str, float]]:
        """Train until validation stops improving; answers trainer.py:404.

        Returns
        -------
        best_valid_score : float
            Not rounded.
        best_valid_result : dict
        """
        for epoch in range(self.start_epoch, self.epochs):
            if self.finished_training:
                break
            started = time.perf_counter()
            self.cutter.tokens = TokenCount()
            found = self._train_epoch(train_data, epoch, show_progress=show_progress)
            # Where RecBole's special trainers make two passes of an epoch they return both losses.
            total = sum(found) if isinstance(found, tuple) else found
            losses = {"total": float(total), **self.loss_parts}
            seconds = time.perf_counter() - started
            self.train_seconds += seconds
            self.seen_tokens += self.cutter.tokens
            self._log_epoch(epoch, losses, seconds, train_data)
            if (epoch + 1) % self.eval_step == 0 or epoch + 1 == self.epochs:
                self._validate(epoch, losses, seconds, show_progress)
                if callback_fn:
                    callback_fn(epoch, self.history[-1]["score"])
            self._save_checkpoint(epoch, train_data=train_data)
        self.tensorboard.flush()
        return self.best_valid_score, self.best_valid_result or {}

    def _validate(
        self, epoch: int, losses: dict[str, float], seconds: float, show_progress: bool
    ) -> None:
        started = time.perf_counter()
        result = self.evaluate_phase("valid", show_progress=show_progress).metrics[self.masking]
        score = result[self.valid_metric]
        best = self.best_valid_score
        # Answers utils.py:115, where an equal score counts as an improvement.
        improved = score > best if self.valid_metric_bigger else score < best
        self.cur_step = 0 if improved else self.cur_step + 1
        if improved:
            self.best_valid_score = score
            self.best_epoch, self.best_valid_result = epoch, result
            self.run.save_checkpoint(self.run.best_checkpoint, self._model_state(epoch))
        self.finished_training = self.cur_step > self.stopping_step
        self.history.append({"epoch": epoch, "score": score, **result})
        for name, value in result.items():
            self.tensorboard.add_scalar(f"valid/{name}", value, epoch)
        logger.info(
            "%s epoch %d: loss %.4f, valid %s %.5f%s (train %.1f s, eval %.1f s)",
            self.config["model"],
            epoch + 1,
            losses["total"],
            self.valid_metric,
            score,
            " *" if improved else "",
            seconds,
            time.perf_counter() - started,
        )

    def _log_epoch(
        self, epoch: int, losses: dict[str, float], seconds: float, train_data: Any
    ) -> None:
        for name, value in losses.items():
            self.tensorboard.add_scalar(f"loss/{name}", value, epoch)
        scalars = {
            "optimisation/learning_rate": self.optimizer.param_groups[0]["lr"],
            "cost/seconds_per_epoch": seconds,
            "cost/batches_per_second": len(train_data) / max(seconds, 1e-9),
            "cost/peak_memory_mb": peak_memory_mb(self.device),
        }
        for name, value in self.cutter.tokens.costs(seconds).items():
            scalars[f"cost/{name}"] = value
        for name, value in scalars.items():
            self.tensorboard.add_scalar(name, value, epoch)

    # Evaluation ---------------------------------------------------------------------------------

    def evaluate_phase(
        self, phase: str, maskings: tuple[str, ...] = (), show_progress: bool = False
    ) -> Evaluation:
        """Rank every evaluated user of `phase` under the run's masking, or under `maskings`."""
        return self.ranking.evaluate(
            self.model, phase, maskings or (self.masking,), show_progress=show_progress
        )

    def evaluate(  # type: ignore[override]
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: Any = None,
        show_progress: bool = False,
    ) -> dict[str, float]:
        """RecBole's entry point, answered by this package's evaluator (trainer.py:557).

        Parameters
        ----------
        eval_data : {"valid", "test"}
            The phase; its rows belong to the evaluator.
        """
        if load_best_model:
            self.load_best()
        return self.evaluate_phase(eval_data, show_progress=show_progress).metrics[self.masking]

    # Checkpoints --------------------------------------------------------------------------------

    def _model_state(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "model": self.model.state_dict(),
            "other": pack_other(self.model),
        }

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        found = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, torch.optim.Optimizer)
        }
        # RecBole's trainers that have several point `optimizer` to one of them in turn.
        return {name: found[name] for name in found if name != "optimizer" or len(found) == 1}

    def _save_checkpoint(  # type: ignore[override]
        self, epoch: int, verbose: bool = True, *, train_data: Any = None, **kwargs: Any
    ) -> None:
        """Full state for `--resume`; answers trainer.py:283, which pickles the configuration."""
        state = self._model_state(epoch) | {
            "optimizers": {name: part.state_dict() for name, part in self._optimizers().items()},
            "loose_values": loose_values(self.model),
            "step": self.step,
            "cur_step": self.cur_step,
            "best_epoch": self.best_epoch,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": self.best_valid_result,
            "finished_training": self.finished_training,
            "history": self.history,
            "train_seconds": self.train_seconds,
            "seen_samples": self.seen_samples,
            "seen_tokens": dataclasses.asdict(self.seen_tokens),
            "scaler": self.scaler.state_dict(),
            "loader": train_data.state_dict() if train_data is not None else None,
            "random": random_state.capture(),
        }
        self.run.save_checkpoint(self.run.last_checkpoint, state)

    def resume_checkpoint(self, resume_file: Any, train_data: Any = None) -> None:
        """Continue after the last finished epoch; answers trainer.py:308."""
        state = self.run.load_checkpoint(resume_file, self.device)
        self._load_model(state)
        restore_loose_values(self.model, state["loose_values"])
        for name, optimizer in self._optimizers().items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name in ("step", "cur_step", "best_epoch", "best_valid_score", "best_valid_result"):
            setattr(self, name, state[name])
        for name in ("finished_training", "history", "train_seconds", "seen_samples"):
            setattr(self, name, state[name])
        # Checkpoints of earlier versions hold neither of these.
        self.seen_tokens = TokenCount(**state.get("seen_tokens", {}))
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.start_epoch = state["epoch"] + 1
        if train_data is not None and state["loader"] is not None:
            train_data.load_state_dict(
                {name: value.cpu() for name, value in state["loader"].items()}
            )
        random_state.restore(state["random"])
        logger.info("Resuming %s after epoch %d.", self.config["model"], self.start_epoch)

    def load_best(self) -> None:
        """Load the weights of the epoch that validation chose."""
        self._load_model(self.run.load_checkpoint(self.run.best_checkpoint, self.device))

    def _load_model(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.model.load_other_parameter(unpack(state["other"]))


class HellmTrainer(RunTrainer, TrainingPass):
    """The trainer of every model whose epoch is one pass over its batches."""
