"""RecBole's trainer with safe checkpoints, exact resuming and this package's evaluation."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import ModelType

from recbole_hellm.compat import recbole_metrics, tensorboard_writer
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.errors import DivergenceError
from recbole_hellm.evaluation.evaluator import Evaluation, Evaluator
from recbole_hellm.models.averaging import weight_average
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.tracking.tracking import Tracking
from recbole_hellm.training.batching import MicroBatcher, TokenCount
from recbole_hellm.training.checkpoints import Checkpoints
from recbole_hellm.training.distributed import Processes, current
from recbole_hellm.training.epoch import TrainingPass
from recbole_hellm.training.memory import peak_memory_mb
from recbole_hellm.training.model_state import LooseState, parameter_counts
from recbole_hellm.training.no_optimizer import NoOptimizer
from recbole_hellm.training.parallel import SingleProcess, distribute

logger = logging.getLogger(__name__)

OPTIMIZERS = {  # the keys are settings.LEARNERS
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


class RunTrainer(Checkpoints, Trainer):
    """Train, select by validation and evaluate once on test.

    Most models use :class:`HellmTrainer`. :func:`recbole_hellm.registry.trainer_class` combines
    this class with RecBole's special trainers.

    Parameters
    ----------
    config : HellmConfig
    model : AbstractRecommender
    run : RunDirectory
        Where checkpoints go.
    evaluator : Evaluator
    train_stage : callable, optional
        Trains the run that a stage's configuration describes, or returns the finished run.
    """

    # RecBole's constructor sets these without annotations.
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
        with tensorboard_writer(None), recbole_metrics(config):
            super().__init__(config, model)
        self.stopping_step = config["stopping_step"]
        self.epochs = min(self.epochs, self.settings.epochs)
        self.step = 0
        self.best_epoch = -1
        self.finished_training = False
        self.history: list[dict[str, float]] = []
        self.curves: dict[int, dict[str, float]] = {}
        self.tracking = Tracking()
        self.train_seconds = 0.0
        self.train_cpu_seconds = 0.0
        self.seen_samples = 0
        self.seen_tokens = TokenCount()
        self.loss_parts: dict[str, float] = {}
        self.loose_state = LooseState(model)
        self.average = weight_average(self.settings, model)
        self.parallel = SingleProcess(model, Processes())
        self.micro_batcher = MicroBatcher(model, config, self.settings.max_tokens)
        # Half-precision gradients would vanish unscaled; in other precisions it does nothing.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=getattr(model, "loss_scaling", False)
        )

    def prepare(self, dataset: Any) -> dict[str, str]:
        """Prepare the model's inputs before training; does nothing here.

        Returns
        -------
        dict of str to str
            Run directories of the stages that this training builds on, by role.
        """
        return {}

    def distribute(self) -> None:
        """Distribute the untrained model over the processes of this run."""
        processes = current()
        if processes.size == 1:
            return
        self.parallel = distribute(self.config, self.model)
        self.optimizer = self._build_optimizer()
        self.micro_batcher = MicroBatcher(
            self.model, self.config, self.settings.max_tokens, processes.rank, processes.size
        )
        if processes.rank and not hasattr(self.model, "portion_loss"):
            # Each process draws its own dropout; weights exist already, and batches are drawn by
            # generators of their own or by numpy's. Portions of one loss need the same draws.
            torch.manual_seed(self.config["seed"] + processes.rank)

    # RecBole's steps, overridden ----------------------------------------------------------------

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer | NoOptimizer:
        """Answers trainer.py:139: parameter groups, betas, and no silent fall-back to Adam."""
        # RecBole gives models that count one number; others of their type may learn.
        numbers = parameter_counts(self.model)["trainable_parameters"]
        if self.config["MODEL_TYPE"] == ModelType.TRADITIONAL and numbers <= 1:
            return NoOptimizer(self.settings.learning_rate)
        name = self.settings.learner.lower()
        options: dict[str, Any] = {"lr": self.settings.learning_rate}
        if name in ("adam", "adamw"):
            # One kernel for all parameters: the same update without temporaries.
            options |= {"betas": tuple(self.settings.betas), "fused": True}
        decay = self.settings.weight_decay
        parameters = kwargs.pop("params", None)
        if parameters is None and hasattr(self.model, "parameter_groups"):
            groups = self.model.parameter_groups(decay)
        else:
            parameters = self.model.parameters() if parameters is None else parameters
            groups = [p for p in parameters if p.requires_grad]
            options["weight_decay"] = decay
        if not groups:
            # Some models of RecBole have no parameters.
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
            started, computed = time.perf_counter(), time.process_time()
            self.micro_batcher.tokens = TokenCount()
            with self._naming_good_state():
                loss = self._train_epoch(train_data, epoch, show_progress=show_progress)
            self.average.after_epoch()
            # RecBole's special trainers with two passes per epoch return both losses.
            total = sum(loss) if isinstance(loss, tuple) else loss
            losses = {"total": float(total), **self.loss_parts}
            seconds = time.perf_counter() - started
            self.train_seconds += seconds
            self.train_cpu_seconds += time.process_time() - computed
            self.seen_tokens += self.micro_batcher.tokens
            self._log_epoch(epoch, losses, seconds, train_data)
            validated = (epoch + 1) % self.eval_step == 0 or epoch + 1 == self.epochs
            if validated:
                with self.average.in_place():
                    self._validate(epoch, losses, seconds, show_progress)
            # As a whole, so that a resumed run can tell which epochs are there.
            self.tracking.curves(self.curves[epoch], epoch)
            if callback_fn and validated:
                callback_fn(epoch, self.history[-1]["score"])
            self._save_checkpoint(epoch, train_data=train_data)
        return self.best_valid_score, self.best_valid_result or {}

    def _validate(
        self, epoch: int, losses: dict[str, float], seconds: float, show_progress: bool
    ) -> None:
        started = time.perf_counter()
        with self._naming_good_state(f" after epoch {epoch + 1}"):
            evaluation = self.evaluate_phase("valid", show_progress=show_progress)
        result = evaluation.metrics[self.masking]
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
        self.curves[epoch] |= {f"valid/{name}": float(value) for name, value in result.items()}
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

    @contextlib.contextmanager
    def _naming_good_state(self, when: str = "") -> Iterator[None]:
        """Say when training diverged, and where the weights are that were best until then."""
        try:
            yield
        except DivergenceError as error:
            best, way_out = self.run.best_checkpoint, error.way_out
            if best.is_file():
                way_out += f" ({best} keeps the weights of epoch {self.best_epoch + 1})"
            raise DivergenceError(error.what + when, way_out) from error

    def _log_epoch(
        self, epoch: int, losses: dict[str, float], seconds: float, train_data: Any
    ) -> None:
        values = {f"loss/{name}": float(value) for name, value in losses.items()}
        values |= {
            "optimisation/learning_rate": self.optimizer.param_groups[0]["lr"],
            "cost/seconds_per_epoch": seconds,
            "cost/batches_per_second": len(train_data) / max(seconds, 1e-9),
            "cost/peak_memory_mb": peak_memory_mb(self.device),
        }
        tokens = self.micro_batcher.tokens.costs(seconds)
        self.curves[epoch] = values | {f"cost/{name}": tokens[name] for name in tokens}

    # Evaluation ---------------------------------------------------------------------------------

    def evaluate_phase(
        self, phase: str, maskings: tuple[str, ...] = (), show_progress: bool = False
    ) -> Evaluation:
        """Rank every evaluated user of `phase` under the run's masking, or under `maskings`."""
        evaluation = self.ranking.evaluate(
            self.model, phase, maskings or (self.masking,), show_progress=show_progress
        )
        self.parallel.end_evaluation()
        return evaluation

    def evaluate(  # type: ignore[override]
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: Any = None,
        show_progress: bool = False,
    ) -> dict[str, float]:
        """RecBole's entry point, with this package's evaluator; answers trainer.py:557.

        Parameters
        ----------
        eval_data : {"valid", "test"}
            The phase; the evaluator has its rows.
        """
        if load_best_model:
            self.load_best()
        return self.evaluate_phase(eval_data, show_progress=show_progress).metrics[self.masking]


class HellmTrainer(RunTrainer, TrainingPass):
    """The trainer of every model whose epoch is one pass over its batches."""
