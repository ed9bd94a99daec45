"""Saving and resuming of a trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.processes import (
    LIVELY,
    Shared,
    assert_same_weights,
    needs_fsdp,
    needs_gloo,
    tables,
)
from support.trainers import Batches

from recbole_hellm import run
from recbole_hellm.errors import RunError


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


@pytest.mark.parametrize(
    ("learner", "averaging"),
    [("adam", "none"), ("sgd", "none"), ("adagrad", "none"), ("adam", "ema"), ("adam", "last")],
)
@pytest.mark.parametrize("best", [1, 4])
def test_a_resumed_trainer_goes_on_where_it_was(
    make_trainer: Any, learner: str, averaging: str, best: int
) -> None:
    scores = [0.1, 0.5, 0.3, 0.4, 0.6 if best == 4 else 0.45, 0.2]
    options = {"learner": learner, "epochs": 6, "scheduler": "cosine", "stopping_step": 2}
    options |= {"weight_averaging": averaging, "ema_decay": 0.9, "averaged_epochs": 3}
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
    assert whole.best_epoch == best
    whole.load_best()
    trained = second.model.w.detach().clone()
    second.load_best()
    assert torch.equal(second.model.w, whole.model.w)
    assert not torch.equal(second.model.w, trained)


def test_checkpoints_hold_the_weights_and_their_average(make_trainer: Any) -> None:
    trainer = make_trainer(epochs=3, weight_averaging="last", averaged_epochs=2)
    trainer.fit(Batches())
    last = torch.load(trainer.run.last_checkpoint, weights_only=True)
    ends = last["average"]["epochs"]
    assert [end.keys() for end in ends] == [{"w", "b"}] * 2  # the frozen one has no copies
    assert torch.equal(ends[1]["w"], last["model"]["w"])
    assert not torch.equal(ends[0]["w"], ends[1]["w"])
    plain = make_trainer(epochs=1, folder="plain")
    plain.fit(Batches())
    assert torch.load(plain.run.last_checkpoint, weights_only=True)["average"] == {}


def test_other_code_of_the_model_cannot_resume(make_trainer: Any) -> None:
    trainer = make_trainer(epochs=1)
    trainer.fit(Batches())
    state = torch.load(trainer.run.last_checkpoint, weights_only=True)
    state["model"].pop(next(iter(state["model"])))
    torch.save(state, trainer.run.last_checkpoint)
    again = make_trainer(epochs=2)
    with pytest.raises(RunError, match=r"last.pt does not fit the code of .*--force"):
        again.resume_checkpoint(again.run.last_checkpoint, Batches())


def test_a_finished_trainer_trains_no_more(make_trainer: Any) -> None:
    trainer = make_trainer([0.5, 0.1, 0.1], epochs=9, stopping_step=0)
    trainer.fit(Batches())
    again = make_trainer([], epochs=9, stopping_step=0)
    data = Batches()
    again.resume_checkpoint(again.run.last_checkpoint, data)
    again.fit(data)
    assert (again.step, again.best_epoch) == (8, 0)


@needs_gloo
@pytest.mark.parametrize(
    ("whole", "killed"),
    [
        ("whole", "killed"),
        ("averaged", "averaged-killed"),
        pytest.param("fsdp-whole", "fsdp-killed", marks=needs_fsdp),
    ],
)
def test_a_kill_changes_nothing(shared: Shared, whole: str, killed: str) -> None:
    first, second = shared.result(whole), shared.result(killed)
    assert first.record["epochs"] == 3
    assert_same_weights(first, second, rtol=0, atol=0)
    for key in ("test", "valid", "best_epoch", "epochs"):
        assert first.record[key] == second.record[key]
    assert tables(first) == tables(second)
    histories = [
        torch.load(result.path / "last.pt", weights_only=True)["history"]
        for result in (first, second)
    ]
    assert histories[0] == histories[1]
    if "fsdp" in whole:
        assert [path.name for path in (second.path / "last").iterdir()] == ["2"]
        assert "model" not in torch.load(second.path / "last.pt", weights_only=True)


@needs_gloo
def test_another_number_of_processes_cannot_resume(shared: Shared) -> None:
    options = shared.options("killed-copy", **LIVELY, resume=True)
    with pytest.raises(RunError, match=r"written by 2 processes \(parallel=ddp\) .* by 1 \(para"):
        run("HeLLM", "tiny", **options)
