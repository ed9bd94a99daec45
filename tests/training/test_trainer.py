from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.trainers import Batches, Line
from torch import nn

from recbole_hellm import registry
from recbole_hellm.errors import DivergenceError
from recbole_hellm.training.trainer import OPTIMIZERS

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


AVERAGES: list[dict[str, Any]] = [
    {"weight_averaging": "ema", "ema_decay": 0.3},
    {"weight_averaging": "last", "averaged_epochs": 2},
]


@pytest.mark.parametrize("averaging", AVERAGES, ids=["ema", "last"])
def test_averages_are_validated_and_saved_while_training_goes_on_from_the_weights(
    make_trainer: Any, averaging: dict[str, Any]
) -> None:
    options = {"epochs": 3, "learner": "adam"}
    plain = make_trainer(folder="plain", **options)
    ends, steps = [], []
    update = plain._update

    def updating() -> None:
        update()
        steps.append(plain.model.w.detach().clone())

    plain._update = updating
    plain.fit(Batches(), callback_fn=lambda epoch, score: ends.append(steps[-1]))
    trainer = make_trainer([0.1, 0.2, 0.3], folder="averaged", **options, **averaging)
    evaluate, seen = trainer.ranking.evaluate, []

    def evaluating(model: Any, *given: Any, **more: Any) -> Any:
        seen.append(model.w.detach().clone())
        return evaluate(model, *given, **more)

    trainer.ranking.evaluate = evaluating
    trainer.fit(Batches())
    assert torch.equal(trainer.model.w, ends[-1])  # the same steps as without an average
    if averaging["weight_averaging"] == "last":
        wanted = [ends[0], (ends[0] + ends[1]) / 2, (ends[1] + ends[2]) / 2]
    else:
        moving, wanted = steps[0], []
        for number, step in enumerate(steps[1:], start=2):
            decay = min(0.3, number / (9 + number))
            moving = decay * moving + (1 - decay) * step
            wanted += [moving] if number % 4 == 0 else []
    for found, expected in zip(seen, wanted, strict=True):
        torch.testing.assert_close(found, expected)
    assert trainer.best_epoch == 2
    trainer.load_best()
    assert torch.equal(trainer.model.w, seen[-1])
    assert float(trainer.model.frozen) == 1


def test_divergence_names_the_epoch_and_the_last_good_state(make_trainer: Any) -> None:
    class Breaking(Line):
        def calculate_loss(self, interaction: Any) -> Any:
            loss = super().calculate_loss(interaction)
            return loss * float("nan") if trainer.history else loss

    trainer = make_trainer([0.1, 0.2], model=Breaking(), epochs=3)
    with pytest.raises(DivergenceError) as error:
        trainer.fit(Batches())
    best = trainer.run.best_checkpoint
    assert str(error.value) == (
        "BPR's training loss is nan in epoch 2; lower learning_rate or set clip_grad_norm "
        f"({best} keeps the weights of epoch 1)."
    )
    trainer.load_best()
    assert trainer.model.w.isfinite().all()


def test_scores_that_are_no_numbers_are_told_with_the_epoch(make_trainer: Any) -> None:
    class Broken:
        def evaluate(self, *_: Any, **__: Any) -> Any:
            raise DivergenceError("BPR gives NaN scores on valid", "lower learning_rate")

    trainer = make_trainer([0.1])
    trainer.ranking = Broken()
    with pytest.raises(DivergenceError, match=r"on valid after epoch 1; lower learning_rate\."):
        trainer.fit(Batches())


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


# RecBole's special trainers ----------------------------------------------------------------------


def test_special_trainers_keep_their_passes(make_config: Callable[..., Any]) -> None:
    for model, passes in (("RecVAE", "RecVAETrainer"), ("CKE", "KGTrainer"), ("Pop", None)):
        trainer = registry.trainer_class(make_config(model).entry)
        names = [cls.__name__ for cls in trainer.__mro__ if "_train_epoch" in vars(cls)]
        assert names == [*([passes] if passes else []), "TrainingPass", "Trainer"]
        assert next(cls for cls in trainer.__mro__ if "fit" in vars(cls)).__name__ == "RunTrainer"
