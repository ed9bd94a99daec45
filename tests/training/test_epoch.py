"""One pass over the batches: steps, losses and parts of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from support.trainers import Batches, Line, scalars

from recbole_hellm.errors import RunError


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
    logged = scalars(trainer)
    # 0 + 1 + ... + 7 = 28 over four batches.
    assert logged["loss/part0"] == [7.0]
    assert logged["loss/part1"] == [2.0]
    assert logged["loss/total"] == [9.0]
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
    found, cut_found = scalars(whole), scalars(cut)
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
    assert "cost/padding_share" not in scalars(trainer)


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
