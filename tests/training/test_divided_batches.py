"""General and sequential models whose batches two processes divide: the results of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.processes import Shared, assert_same_weights, needs_gloo, one_thread

from recbole_hellm import run
from recbole_hellm.errors import RunError
from recbole_hellm.runs.results import RunResult
from recbole_hellm.tracking.curves import read_curves

STILL: dict[str, Any] = {"learner": "sgd", "learning_rate": 0.5, "epochs": 2}
STILL |= {"train_batch_size": 37}  # an odd number, so that portions are not equal
SASREC = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "hidden_size": 8, "inner_size": 16}
MODELS: dict[str, dict[str, Any]] = {
    "LightGCN": {},
    "VBPR": {},
    "FREEDOM": {},
    "HeLLMPre": {"contrast_anchors": 7, "knn_k": 3},
    "SLMRec": {"ssl_weight": 0.0},
    "SASRec": SASREC | {"clip_grad_norm": {"max_norm": 0.05}, "weight_averaging": "ema"},
    "NPE": {"dropout_prob": 0.0, "learning_rate": 0.05},  # its loss leaves a table out
}
SAMPLED: dict[str, dict[str, Any]] = {
    "SASRec": {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "epochs": 1},
    "HeLLMPre": {"epochs": 1},
}
"""With Adam, on the bundled sample."""
LIVELY: dict[str, Any] = {"epochs": 2, "learning_rate": 0.01, "train_batch_size": 64}
"""With dropout, and Adam."""


@pytest.fixture(scope="session")
def divided(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    shared = Shared(tmp_path_factory.mktemp("divided"), tiny_data, {})
    for model, options in MODELS.items():
        shared.plan("still", model=model, **STILL | options)
    shared.plan("whole", model="BM3", **LIVELY)
    shared.plan("killed", model="BM3", **LIVELY, dies_in=1)
    shared.copy("killed", "killed-alone")
    shared.plan("killed", model="BM3", **LIVELY, resume=True)
    for model, options in SAMPLED.items():
        data = {"data_path": str(shared.root / "sample-data")}
        shared.plan("sample", model=model, dataset="sample", **data | options)
    members = {"llm_model": None, "sequence_model": "Pop"}
    shared.plan("members", model="Ensemble", **members, **{"HeLLMPre.epochs": 1})
    shared.start()
    return shared


def alone(
    divided: Shared, folder: str, model: str, dataset: str = "tiny", **options: Any
) -> RunResult:
    """The same by this process."""
    with one_thread():
        return run(model, dataset, **divided.options(f"{folder}-alone", **options))


@needs_gloo
@pytest.mark.parametrize("model", MODELS)
def test_two_processes_train_like_one(divided: Shared, model: str) -> None:
    found = divided.result("still", model)
    expected = alone(divided, "still", model, **STILL | MODELS[model])
    assert [r.record["cost"]["processes"] for r in (found, expected)] == [2, 1]
    assert found.path.name == expected.path.name  # the same run, however it is carried out
    assert_same_weights(found, expected, rtol=1e-4, atol=1e-6)
    assert found.record["best_epoch"] == expected.record["best_epoch"]
    for phase in ("valid", "test"):
        assert found.record[phase] == expected.record[phase]
    losses = [
        [value for _, value in read_curves(result.path)["loss/total"]]
        for result in (found, expected)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@needs_gloo
@pytest.mark.parametrize("model", SAMPLED)
def test_runs_on_the_sample_come_to_the_same_metrics(divided: Shared, model: str) -> None:
    found = divided.result("sample", model, "sample").record
    data = {"data_path": str(divided.root / "sample-data")}
    expected = alone(divided, "sample", model, "sample", **data | SAMPLED[model]).record
    assert (found["cost"]["processes"], expected["cost"]["processes"]) == (2, 1)
    for masking, metrics in expected["test"].items():
        # Rounding may change the order of two near scores of a few among 1,000 users.
        assert found["test"][masking] == pytest.approx(metrics, abs=1e-3)


@needs_gloo
def test_a_killed_run_goes_on_as_if_nothing_had_been(divided: Shared) -> None:
    whole, resumed = divided.result("whole", "BM3"), divided.result("killed", "BM3")
    assert "Resuming BM3 after epoch 1." in divided.log
    assert_same_weights(whole, resumed, rtol=0, atol=0)
    assert whole.record["test"] == resumed.record["test"]
    with pytest.raises(RunError, match="was written by 2 processes"):
        alone(divided, "killed", "BM3", **LIVELY, resume=True)


@needs_gloo
def test_dropout_differs_and_common_draws_do_not(divided: Shared) -> None:
    for folder, model, alike in (("whole", "BM3", False), ("still", "HeLLMPre", True)):
        path = divided.result(folder, model).path / "last.pt"
        state = torch.load(path, weights_only=True)
        (other,) = state["random_of_others"]
        assert torch.equal(state["random"]["torch"], other["torch"]) == alike
        assert torch.equal(state["random"]["numpy"][1], other["numpy"][1])


@needs_gloo
def test_members_of_an_ensemble_are_shared_and_it_is_evaluated(divided: Shared) -> None:
    result = divided.result("members", "Ensemble")
    processes = {
        stage.record["model"]: stage.record["cost"]["processes"] for stage in result.stages
    }
    assert processes == {"HeLLMPre": 2, "Pop": 1}
    assert result.record["cost"]["processes"] == 2
    assert "Pop runs in one process while the others wait." in divided.log
    with one_thread():
        assert result.evaluate("test") == result.record["test"]


@needs_gloo
def test_nothing_is_said_of_parameters_without_use(divided: Shared) -> None:
    assert "reducer.cpp" not in divided.log
