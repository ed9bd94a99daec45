"""One pass over the training batches, the innermost part of every trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer

from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.errors import DivergenceError
from recbole_hellm.models.averaging import WeightAverage
from recbole_hellm.progress import progress_bar
from recbole_hellm.training.batching import MicroBatcher
from recbole_hellm.training.parallel import SingleProcess
from recbole_hellm.training.random_state import drawn_alike


class TrainingPass(Trainer):
    """RecBole's ``_train_epoch`` with a schedule, named losses and gradient clipping.

    It follows RecBole's special trainers in the method resolution order, so each pass of their
    epochs (knowledge graph after interactions, decoder after encoder) uses this method.
    """

    settings: TrainingSettings
    parallel: SingleProcess
    micro_batcher: MicroBatcher
    scaler: torch.amp.GradScaler
    average: WeightAverage
    step: int
    seen_samples: int
    loss_parts: dict[str, float]

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Any = None,
        show_progress: bool = False,
    ) -> float:
        """One pass over the batches; answers trainer.py:203.

        Each batch makes one step with the gradient of its mean loss, whatever the number of parts
        it is split into.

        Returns
        -------
        float
            Mean loss over steps; ``loss_parts`` holds the means of its parts.

        Raises
        ------
        RunError
            If the loss is not finite.
        """
        self.model.train()
        if hasattr(self.model, "start_epoch"):
            with drawn_alike(self.parallel.processes):
                self.model.start_epoch()
        sums: dict[str, torch.Tensor] = {}
        for interaction in self._progress(train_data, epoch_idx, show_progress):
            self._set_learning_rate(len(train_data))
            self.optimizer.zero_grad(set_to_none=True)
            parts_of_batch = self.micro_batcher.split(interaction)
            for number, (part, share) in enumerate(parts_of_batch, start=1):
                with self.parallel.accumulating(last=number == len(parts_of_batch)):
                    losses = self.parallel.loss(part.to(self.device), loss_func)
                    terms = losses if isinstance(losses, tuple) else (losses,)
                    loss: torch.Tensor = sum(terms)  # type: ignore[assignment]
                    # Processes average gradients, while parts need their sum.
                    factor = share * self.parallel.processes.size
                    self.scaler.scale(loss * factor).backward()
                for name, value in {"total": loss, **self._named_losses(terms)}.items():
                    value = torch.as_tensor(value).detach() * share
                    sums[name] = sums[name] + value if name in sums else value
            self._update()
            self.seen_samples += self.micro_batcher.samples(interaction)
        shares = self.parallel.processes.gather({name: float(sums[name]) for name in sums})
        means = {name: sum(part[name] for part in shares) / len(train_data) for name in sums}
        total = means.pop("total")
        if not np.isfinite(total):
            raise DivergenceError(
                f"{self.config['model']}'s training loss is {total} in epoch {epoch_idx + 1}",
                "lower learning_rate or set clip_grad_norm",
            )
        self.loss_parts = means
        return total

    def _named_losses(self, terms: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """The terms of the last loss by name."""
        losses = dict(getattr(self.model, "last_losses", {}))
        if not losses and len(terms) > 1:
            losses = {f"part{index}": term for index, term in enumerate(terms)}
        return losses

    def _update(self) -> None:
        """Make one optimizer step with the gradients of a batch."""
        if self.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.after_step()
        self.step += 1

    def _progress(self, train_data: Any, epoch: int, show: bool) -> Iterable[Interaction]:
        return progress_bar(
            train_data,
            show=show,
            total=len(train_data),
            desc=f"{self.config['model']} epoch {epoch + 1}/{self.epochs}",
            unit="batch",
            leave=False,
        )

    def _set_learning_rate(self, steps_per_epoch: int) -> None:
        factor = self.settings.factor(self.step, steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
