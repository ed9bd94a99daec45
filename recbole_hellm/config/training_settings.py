"""Typed settings of optimisation, shared by every model."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from recbole_hellm.config.settings import Settings, hash_neutral, require

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop")


@dataclasses.dataclass(frozen=True)
class TrainingSettings(Settings):
    """How a model is optimised and when training stops.

    Attributes
    ----------
    scheduler : {"none", "exponential", "cosine"}
        ``exponential``: learning rate times ``scheduler_decay ** (epoch / scheduler_every)``, set
        each epoch (METHOD 2.8). ``cosine``: linear warm-up over ``warmup_epochs``, then cosine down
        to ``learning_rate_min`` at the last epoch, set each step (METHOD 3.7).
    stopping_step : int
        Training stops at the first evaluation that is the ``stopping_step + 1``-th in a row
        without improvement, as in RecBole; an equal score is no improvement.
    clip_grad_norm : dict, optional
        Arguments of ``torch.nn.utils.clip_grad_norm_``, e.g. ``{max_norm: 1.0}``.
    max_tokens : int, optional
        Most tokens, padding included, that go through a language model at once. A batch that holds
        more is cut into parts whose gradients are summed: the same step with less memory.
    parallel : {"auto", "ddp", "fsdp"}
        How several processes share a model: a copy each (``ddp``, also ``auto``), or a shard of
        every weight each, for models that are too large for one device (``fsdp``).
    """

    epochs: int = 300
    eval_step: int = 1
    stopping_step: int = 10
    learner: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    clip_grad_norm: dict | None = None
    scheduler: Literal["none", "exponential", "cosine"] = "none"
    scheduler_decay: float = 0.96
    scheduler_every: float = 50.0
    warmup_epochs: float = 1.0
    learning_rate_min: float = 0.0
    max_tokens: int | None = hash_neutral(None)
    parallel: Literal["auto", "ddp", "fsdp"] = hash_neutral("auto")

    def validate(self) -> None:
        """Check ranges.

        Raises
        ------
        ConfigError
            If a value is out of range.
        """
        for key in ("epochs", "eval_step", "max_tokens"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"{key}={value} must be at least 1.")
        for key in ("learning_rate", "scheduler_decay", "scheduler_every"):
            require(getattr(self, key) > 0, f"{key}={getattr(self, key)} must be positive.")
        for key in ("stopping_step", "weight_decay", "warmup_epochs", "learning_rate_min"):
            require(getattr(self, key) >= 0, f"{key}={getattr(self, key)} must not be negative.")
        require(
            self.learner.lower() in LEARNERS,
            f"learner={self.learner!r} is not known; use one of {', '.join(LEARNERS)}.",
        )
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas={list(self.betas)} must be two numbers from 0 to below 1.",
        )
        require(
            self.clip_grad_norm is None or "max_norm" in self.clip_grad_norm,
            f"clip_grad_norm={self.clip_grad_norm} lacks max_norm, e.g. '{{max_norm: 1.0}}'.",
        )

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate at `step` (from 0), as a multiple of ``learning_rate``."""
        epoch = step / steps_per_epoch
        if self.scheduler == "exponential":
            return self.scheduler_decay ** (math.floor(epoch) / self.scheduler_every)
        if self.scheduler == "cosine":
            if epoch < self.warmup_epochs:
                return (step + 1) / (self.warmup_epochs * steps_per_epoch)
            span = max(self.epochs - self.warmup_epochs, 1e-9)
            progress = min((epoch - self.warmup_epochs) / span, 1.0)
            floor = self.learning_rate_min / self.learning_rate
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0
