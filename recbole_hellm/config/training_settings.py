"""The optimisation settings, which all models share."""

from __future__ import annotations

import math
from typing import Any, Literal

from recbole_hellm.config.settings import Settings, require, setting

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop")


class TrainingSettings(Settings):
    """How a model is optimised and when training stops."""

    epochs: int = setting(300, "Most epochs.", ge=1)
    eval_step: int = setting(1, "Epochs between validations.", ge=1)
    stopping_step: int = setting(
        10,
        "Validations in a row without improvement that are waited for; the next one stops. An "
        "equal score is no improvement.",
        ge=0,
    )
    learner: str = setting("adam", f"Optimiser: {', '.join(LEARNERS)}.")
    learning_rate: float = setting(1e-3, "Learning rate at the start.", gt=0)
    weight_decay: float = setting(0.0, "Weight decay of the optimiser.", ge=0)
    betas: tuple[float, ...] = setting((0.9, 0.999), "The two decay rates of Adam.")
    clip_grad_norm: dict | None = setting(
        None, "Arguments of torch's clip_grad_norm_, such as {max_norm: 1.0}."
    )
    scheduler: Literal["none", "exponential", "cosine"] = setting(
        "none",
        "exponential: the rate times scheduler_decay ^ (epoch / scheduler_every), set each epoch. "
        "cosine: linear warm-up, then down to learning_rate_min at the last epoch, set each step.",
    )
    scheduler_decay: float = setting(0.96, "Factor of the exponential schedule.", gt=0)
    scheduler_every: float = setting(50.0, "Epochs in which that factor applies once.", gt=0)
    warmup_epochs: float = setting(1.0, "Epochs of the cosine schedule's warm-up.", ge=0)
    learning_rate_min: float = setting(0.0, "Last rate of the cosine schedule.", ge=0)
    weight_averaging: Literal["none", "ema", "last"] = setting(
        "none",
        "Weights that are validated, tested and saved, while training goes on from its own: ema, a "
        "moving average over all steps, or last, the mean at the ends of the last epochs.",
        hash_neutral=True,
    )
    ema_decay: float = setting(
        0.999,
        "Share of the moving average that stays in each step, less in the first steps; it is over "
        "about 1 / (1 - ema_decay) steps.",
        gt=0,
        lt=1,
        hash_neutral=True,
    )
    averaged_epochs: int = setting(
        5,
        "Epochs whose last weights weight_averaging=last averages; all of them until then.",
        ge=1,
        hash_neutral=True,
    )
    max_tokens: int | None = setting(
        None,
        "Most tokens, padding included, that go through a language model at once; larger batches "
        "are split and their gradients summed.",
        ge=1,
        hash_neutral=True,
    )
    parallel: Literal["auto", "ddp", "fsdp"] = setting(
        "auto",
        "How several processes share a model: a copy each (ddp, also auto), or a shard of every "
        "weight each (fsdp).",
        identifies=False,
        hash_neutral=True,
    )

    def validate_relations(self) -> None:
        """Check names and lengths; raises :class:`ConfigError`."""
        require(
            self.learner.lower() in LEARNERS,
            f"learner={self.learner!r} is not known; use one of {', '.join(LEARNERS)}.",
        )
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas={list(self.betas)} must be two numbers from 0 to below 1.",
        )
        clip = self.clip_grad_norm or {}
        require(
            self.clip_grad_norm is None or "max_norm" in clip,
            f"clip_grad_norm={self.clip_grad_norm} lacks max_norm, e.g. '{{max_norm: 1.0}}'.",
        )
        require(
            clip.keys() <= {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
            and all(_is_number(clip[key]) for key in ("max_norm", "norm_type") if key in clip),
            f"clip_grad_norm={self.clip_grad_norm} must give numbers for max_norm and norm_type, "
            "e.g. '{max_norm: 1.0}'.",
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


def _is_number(value: Any) -> bool:
    try:
        float(value)  # as torch reads it; "inf" is a norm, too
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)
