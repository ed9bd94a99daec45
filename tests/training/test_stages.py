from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recbole_hellm.errors import RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.training.stages import StagedTrainer


class Standing(nn.Module):
    """A model that stands on some roles and keeps what it is given."""

    def __init__(self, roles: list[str]) -> None:
        super().__init__()
        self.item_tables, self.given = roles, {}
        self.w = nn.Parameter(torch.zeros(1))

    def load_item_table(self, role: str, table: torch.Tensor) -> None:
        self.given[role] = table


class Data:
    item_tokens = np.array(["b", "a", "c"])
    fingerprint = "split"


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[Any], RunDirectory]:
    """Instead of training: a run whose embeddings tell the model's name; it draws numbers too."""
    asked: list[Any] = []

    def train(config: Any) -> RunDirectory:
        asked.append(config)
        torch.rand(len(asked))
        directory = RunDirectory(tmp_path / config["model"])
        value = float(len(config["model"]))
        table = value + torch.arange(3.0)[:, None]
        directory.write_embeddings({"item": table}, {"item": np.array(["a", "b", "c"])}, "split")
        return directory

    train.asked = asked  # type: ignore[attr-defined]
    return train


@pytest.fixture
def make_trainer(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., StagedTrainer]:
    def make(roles: list[str], train_stage: Any, **overrides: Any) -> StagedTrainer:
        config = make_config("HeLLM", **overrides)
        directory = RunDirectory(tmp_path / "run")
        return StagedTrainer(config, Standing(roles), directory, None, train_stage)  # type: ignore[arg-type]

    return make


def test_embeddings_of_each_role_reach_the_model(
    make_trainer: Any, stage: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(["graph", "sequence"], stage)
    assert trainer.prepare(Data()) == {
        "graph": str(tmp_path / "HeLLMPre"),
        "sequence": str(tmp_path / "SASRec"),
    }
    assert trainer.model.given["graph"].flatten().tolist() == [9.0, 8.0, 10.0]
    assert trainer.model.given["sequence"].flatten().tolist() == [7.0, 6.0, 8.0]


def test_roles_without_use_are_not_trained(make_trainer: Any, stage: Any) -> None:
    trainer = make_trainer(["sequence"], stage)
    assert list(trainer.prepare(Data())) == ["sequence"]
    assert [config["model"] for config in stage.asked] == ["SASRec"]


def test_the_models_random_numbers_do_not_depend_on_the_stages(
    make_trainer: Any, stage: Any
) -> None:
    drawn = []
    for roles in ([], ["graph"], ["graph", "sequence"]):
        make_trainer(roles, stage).prepare(Data())
        drawn.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))
    assert drawn[0] == drawn[1] == drawn[2]


def test_another_model_may_take_a_role(make_trainer: Any, stage: Any) -> None:
    trainer = make_trainer(
        ["graph", "sequence"], stage, graph_model="LightGCN", sequence_model="GRU4Rec"
    )
    trainer.prepare(Data())
    assert [config["model"] for config in stage.asked] == ["LightGCN", "GRU4Rec"]


def test_stages_trained_on_another_split_are_refused(make_trainer: Any, stage: Any) -> None:
    class Other(Data):
        fingerprint = "other"

    with pytest.raises(RunError, match="was trained on another split"):
        make_trainer(["graph"], stage).prepare(Other())


def test_stages_need_a_way_to_be_trained(make_trainer: Any) -> None:
    with pytest.raises(RunError, match=r"HeLLM needs its stages; use recbole_hellm\.run"):
        make_trainer(["graph"], None).prepare(Data())
