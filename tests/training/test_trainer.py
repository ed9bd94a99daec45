from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from recbole_hellm import registry
from recbole_hellm.errors import RunError
from recbole_hellm.evaluation.evaluator import Evaluation
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.training.trainer import OPTIMIZERS, HellmTrainer


class Line(nn.Module):
    """Minimises (w - x)^2 over a batch; stands for a model."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        self.b = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def calculate_loss(self, interaction: Any) -> Any:
        return ((self.w + self.b - interaction["x"][:, None]) ** 2).mean()

    def other_parameter(self) -> dict[str, Any]:
        return {}

    def load_other_parameter(self, values: dict[str, Any]) -> None:
        assert values == {}


class Batches:
    """Four batches of two, shuffled by a generator whose state can be kept."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Interaction]:
        for rows in torch.randperm(8, generator=self.generator).view(4, 2):
            yield Interaction({"x": rows.float()})

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class Scores:
    """An evaluator that gives the scores it was made with, one a validation."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.asked = iter(scores), []

    def evaluate(
        self, model: Any, phase: str, maskings: tuple[str, ...], show_progress: bool = False
    ) -> Evaluation:
        self.asked.append((phase, maskings))
        score = next(self.scores)
        return Evaluation(phase, {maskings[0]: {"ndcg@10": score}}, {})


@pytest.fixture
def make_trainer(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., HellmTrainer]:
    def make(
        scores: list[float] | None = None, model: Any = None, folder: str = "run", **options: Any
    ) -> HellmTrainer:
        config = make_config("BPR", **{"learning_rate": 0.1, "learner": "sgd"} | options)
        evaluator = Scores(scores or [0.1] * 1000)
        directory = RunDirectory(tmp_path / folder)
        return HellmTrainer(config, model or Line(), directory, evaluator)  # type: ignore[arg-type]

    return make


def scalars(path: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(path))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# Optimisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", OPTIMIZERS)
def test_every_learner_gets_its_settings(make_trainer: Any, learner: str) -> None:
    trainer = make_trainer(learner=learner.upper(), weight_decay=0.25, betas=[0.7, 0.8])
    assert type(trainer.optimizer) is OPTIMIZERS[learner]
    (group,) = trainer.optimizer.param_groups
    assert group["weight_decay"] == 0.25
    assert group["lr"] == 0.1
    assert len(group["params"]) == 2  # the frozen one is left out
    if "adam" in learner:
        assert group["betas"] == (0.7, 0.8)


def test_a_model_may_name_its_groups(make_trainer: Any) -> None:
    class Grouped(Line):
        def parameter_groups(self, decay: float) -> list[dict[str, Any]]:
            return [
                {"params": [self.w], "weight_decay": decay},
                {"params": [self.b], "weight_decay": 0.0},
            ]

    trainer = make_trainer(model=Grouped(), weight_decay=0.5)
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.5, 0.0]


def test_a_model_without_parameters_can_be_trained(make_trainer: Any) -> None:
    class Empty(nn.Module):
        pass

    assert len(make_trainer(model=Empty()).optimizer.param_groups[0]["params"]) == 1


def test_an_epoch_is_gradient_descent_with_the_schedule(make_trainer: Any) -> None:
    schedule = {"scheduler": "cosine", "warmup_epochs": 1.0, "epochs": 3}
    trainer = make_trainer(**schedule, learning_rate=0.2, learning_rate_min=0.01)
    trainer.fit(Batches())
    w, b, data = np.zeros(3), 0.0, Batches()
    for epoch in range(3):
        for index, batch in enumerate(data):
            step = epoch * 4 + index
            rate = trainer.settings.learning_rate * trainer.settings.factor(step, 4)
            error = w + b - batch["x"].numpy()[:, None]
            w, b = w - rate * 2 * error.mean(0) / 3, b - rate * 2 * error.mean()
    np.testing.assert_allclose(trainer.model.w.detach().numpy(), w, rtol=1e-5)
    assert trainer.model.b.item() == pytest.approx(b, rel=1e-5)
    assert (trainer.step, trainer.seen_samples) == (12, 24)


def test_gradients_are_clipped_before_the_step(make_trainer: Any) -> None:
    free = make_trainer(learning_rate=1.0, epochs=1)
    held = make_trainer(learning_rate=1.0, epochs=1, clip_grad_norm={"max_norm": 0.01}, folder="b")
    for trainer in (free, held):
        trainer.fit(Batches())
    norms = [torch.cat([t.model.w, t.model.b[None]]).norm().item() for t in (free, held)]
    assert norms[0] > 0.5
    assert 0 < norms[1] <= 0.04 + 1e-6


def test_losses_are_named_and_averaged_over_steps(make_trainer: Any) -> None:
    class Parts(Line):
        def calculate_loss(self, interaction: Any) -> Any:
            return 0 * self.w.sum() + interaction["x"].sum(), 0 * self.b + 2.0

    class Named(Parts):
        def calculate_loss(self, interaction: Any) -> Any:
            self.last_losses = {"bpr": interaction["x"].sum()}
            return sum(super().calculate_loss(interaction))

    trainer = make_trainer(model=Parts(), epochs=1)
    trainer.fit(Batches())
    trainer.tensorboard.close()
    found = scalars(trainer.run.path)
    # 0 + 1 + ... + 7 = 28 over four batches.
    assert found["loss/part0"] == [7.0]
    assert found["loss/part1"] == [2.0]
    assert found["loss/total"] == [9.0]
    trainer = make_trainer(model=Named(), epochs=1, folder="named")
    trainer.fit(Batches())
    assert trainer.loss_parts == {"bpr": 7.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_training(make_trainer: Any, bad: float) -> None:
    class Broken(Line):
        def calculate_loss(self, interaction: Any) -> Any:
            return super().calculate_loss(interaction) + bad

    trainer = make_trainer(model=Broken())
    with pytest.raises(RunError, match=r"BPR's training loss is (nan|inf) in epoch 1; lower"):
        trainer.fit(Batches())
    assert not trainer.run.last_checkpoint.exists()


class Sampled(Line):
    """A model whose batches can be cut: row x holds 1 + x mod 3 tokens and so many targets."""

    def sample_tokens(self, interaction: Any) -> torch.Tensor:
        return interaction["item_length"]

    def pass_tokens(self, tokens: Any) -> tuple[int, int]:
        return int(tokens.sum()), len(tokens) * int(tokens.max())

    def target_counts(self, interaction: Any) -> torch.Tensor:
        return interaction["item_length"]

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        weights = interaction["item_length"].float()
        losses = ((self.w + self.b - interaction["x"][:, None]) ** 2).mean(1)
        self.last_losses = {"half": (losses * weights).sum() / weights.sum() / 2}
        return 2 * self.last_losses["half"]


class Lengths(Batches):
    def __iter__(self) -> Iterator[Interaction]:
        for batch in super().__iter__():
            yield Interaction({"x": batch["x"], "item_length": 1 + batch["x"].long() % 3})


def test_parts_of_a_batch_make_the_same_step(make_trainer: Any) -> None:
    whole = make_trainer(model=Sampled(), epochs=2, clip_grad_norm={"max_norm": 1.0})
    whole.fit(Lengths())
    cut = make_trainer(model=Sampled(), epochs=2, clip_grad_norm={"max_norm": 1.0}, folder="cut")
    cut.micro_batcher.max_tokens, passes = 1, []
    loss = cut.model.calculate_loss
    cut.model.calculate_loss = lambda rows: passes.append(len(rows)) or loss(rows)
    cut.fit(Lengths())
    assert passes == [1] * 16
    torch.testing.assert_close(cut.model.w, whole.model.w)
    targets = 2 * sum(int(batch["item_length"].sum()) for batch in Lengths())
    assert (cut.step, cut.seen_samples) == (whole.step, whole.seen_samples) == (8, targets)
    for trainer in (whole, cut):
        trainer.tensorboard.close()
    found, cut_found = scalars(whole.run.path), scalars(cut.run.path)
    assert cut_found["loss/total"] == pytest.approx(found["loss/total"], rel=1e-5)
    assert cut_found["loss/half"] == pytest.approx(found["loss/half"], rel=1e-5)
    assert cut_found["loss/half"] == pytest.approx([v / 2 for v in found["loss/total"]], rel=1e-5)
    assert cut_found["cost/padding_share"] == [0.0, 0.0]
    assert all(share > 0 for share in found["cost/padding_share"])
    assert all(rate > 0 for rate in found["cost/tokens_per_second"])
    assert cut.seen_tokens.real == cut.seen_tokens.padded == whole.seen_tokens.real == 30
    assert whole.seen_tokens.padded > 30


def test_other_models_count_no_tokens(make_trainer: Any) -> None:
    trainer = make_trainer(epochs=1)
    trainer.fit(Batches())
    trainer.tensorboard.close()
    assert "cost/padding_share" not in scalars(trainer.run.path)


def test_half_precision_gradients_are_scaled(make_trainer: Any) -> None:
    """Overflowing steps are left out; those that count are the unscaled ones, clipped as such."""

    class Half(Line):
        loss_scaling = True

    options = {"epochs": 3, "clip_grad_norm": {"max_norm": 1.0}}
    plain, scaled = make_trainer(**options), make_trainer(model=Half(), **options, folder="half")
    assert scaled.scaler.is_enabled() and not plain.scaler.is_enabled()
    gradients = []
    scaled.model.w.register_hook(lambda gradient: gradients.append(gradient.abs().max().item()))
    plain.fit(Batches())
    scaled.fit(Batches())
    assert min(gradients) > 100
    torch.testing.assert_close(scaled.model.w, plain.model.w)
    state = scaled.scaler.state_dict()
    again = make_trainer(model=Half(), **options, folder="half")
    again.resume_checkpoint(again.run.last_checkpoint, Batches())
    assert again.scaler.state_dict() == state
    assert state["_growth_tracker"] == 12

    trainer = make_trainer(model=Half(), epochs=1, folder="over")
    trainer.model.w.register_hook(lambda gradient: gradient + torch.inf)
    trainer.fit(Batches())
    assert torch.equal(trainer.model.w, torch.zeros(3))
    assert trainer.scaler.get_scale() == 2**16 / 2**4


# Selection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "patience", "best", "epochs"),
    [
        ([0.1, 0.3, 0.2, 0.2, 0.2, 0.9], 2, 1, 5),
        ([0.1, 0.3, 0.2, 0.2, 0.4, 0.1], 2, 4, 6),
        ([0.3, 0.3, 0.3, 0.3, 0.3, 0.3], 1, 0, 3),  # as good is no improvement
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.1], 9, 5, 6),
        ([0.5, 0.4, 0.6, 0.7, 0.1, 0.1], 0, 0, 2),
    ],
)
def test_training_stops_and_the_best_weights_stay(
    make_trainer: Any, scores: list[float], patience: int, best: int, epochs: int
) -> None:
    trainer = make_trainer(scores, epochs=6, stopping_step=patience)
    weights = []
    score, result = trainer.fit(
        Batches(), callback_fn=lambda epoch, score: weights.append(trainer.model.w.tolist())
    )
    assert (trainer.best_epoch, len(weights)) == (best, epochs)
    assert (score, result) == (scores[best], {"ndcg@10": scores[best]})
    assert [entry["score"] for entry in trainer.history] == scores[:epochs]
    trainer.load_best()
    assert trainer.model.w.tolist() == weights[best]
    assert {phase for phase, _ in trainer.ranking.asked} == {"valid"}


def test_smaller_may_be_better(make_trainer: Any) -> None:
    trainer = make_trainer([0.5, 0.2, 0.3], epochs=3)
    trainer.valid_metric_bigger, trainer.best_valid_score = False, float("inf")
    trainer.fit(Batches())
    assert (trainer.best_epoch, trainer.best_valid_score) == (1, 0.2)


def test_the_last_epoch_is_always_validated(make_trainer: Any) -> None:
    trainer = make_trainer([0.1, 0.2, 0.3], epochs=5, eval_step=2)
    trainer.fit(Batches())
    assert [entry["epoch"] for entry in trainer.history] == [1, 3, 4]


def test_recboles_entry_point_uses_the_best_weights(make_trainer: Any) -> None:
    trainer = make_trainer([0.4, 0.1, 0.8], epochs=2)
    trainer.fit(Batches())
    last = trainer.model.w.tolist()
    assert trainer.evaluate("test") == {"ndcg@10": 0.8}
    assert trainer.model.w.tolist() != last
    assert trainer.ranking.asked[-1] == ("test", ("seen",))


# Checkpoints -------------------------------------------------------------------------------------


def test_checkpoints_are_safe_and_complete(make_trainer: Any) -> None:
    trainer = make_trainer(learner="adam", epochs=2)
    trainer.fit(Batches())
    last = torch.load(trainer.run.last_checkpoint, weights_only=True)
    assert set(last) >= {"model", "optimizers", "loader", "random", "history", "step", "epoch"}
    assert last["step"] == 8
    assert set(torch.load(trainer.run.best_checkpoint, weights_only=True)) == {
        "epoch",
        "model",
        "other",
    }


@pytest.mark.parametrize("learner", ["adam", "sgd", "adagrad"])
def test_a_resumed_trainer_goes_on_where_it_was(make_trainer: Any, learner: str) -> None:
    scores = [0.1, 0.5, 0.3, 0.4, 0.45, 0.2]
    options = {"learner": learner, "epochs": 6, "scheduler": "cosine", "stopping_step": 2}
    whole = make_trainer(scores, **options)
    whole.fit(Batches())
    first = make_trainer(scores, folder="cut", **options)

    def stop(epoch: int, score: float) -> None:
        if epoch == 3:  # validated, not yet in the checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.fit(Batches(), callback_fn=stop)
    second = make_trainer(scores[3:], folder="cut", **options)
    data = Batches()
    second.resume_checkpoint(second.run.last_checkpoint, data)
    assert second.start_epoch == 3
    second.fit(data)
    assert torch.equal(second.model.w, whole.model.w)
    assert second.history == whole.history
    for name in ("best_epoch", "cur_step", "step", "seen_samples", "finished_training"):
        assert getattr(second, name) == getattr(whole, name), name
    whole.load_best()
    second.load_best()
    assert torch.equal(second.model.w, whole.model.w)


def test_a_finished_trainer_trains_no_more(make_trainer: Any) -> None:
    trainer = make_trainer([0.5, 0.1, 0.1], epochs=9, stopping_step=0)
    trainer.fit(Batches())
    again = make_trainer([], epochs=9, stopping_step=0)
    data = Batches()
    again.resume_checkpoint(again.run.last_checkpoint, data)
    again.fit(data)
    assert (again.step, again.best_epoch) == (8, 0)


# RecBole's special trainers ----------------------------------------------------------------------


def test_special_trainers_keep_their_passes(make_config: Callable[..., Any]) -> None:
    for model, passes in (("RecVAE", "RecVAETrainer"), ("CKE", "KGTrainer"), ("Pop", None)):
        config = make_config(model)
        found = registry.trainer_class(model, config["MODEL_TYPE"])
        names = [cls.__name__ for cls in found.__mro__ if "_train_epoch" in vars(cls)]
        assert names == [*([passes] if passes else []), "TrainingPass", "Trainer"]
        assert next(cls for cls in found.__mro__ if "fit" in vars(cls)).__name__ == "RunTrainer"
