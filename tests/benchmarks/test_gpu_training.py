from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_training
import numpy as np
import pytest
import torch
from gpu_report import synthetic_inputs
from gpu_training import Inputs, Job, build, metrics, train

from recbole_hellm.data.interactions.loaders import SequenceLoader
from recbole_hellm.errors import DataError, DivergenceError
from recbole_hellm.evaluation.evaluator import Evaluator
from recbole_hellm.models.llm import HeLLMNetwork
from recbole_hellm.models.sequential.hellm import HeLLM

CPU = torch.device("cpu")
BOTH = ("graph", "sequence")


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return synthetic_inputs(tmp_path)


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_metrics_are_those_of_the_evaluator(
    make_parts: Callable[..., Any], small_model: dict[str, Any], phase: str
) -> None:
    config, dataset, parts = make_parts("HeLLM", **small_model | {"MAX_ITEM_LIST_LENGTH": 50})
    torch.manual_seed(1)
    model = HeLLM(config, parts[0]).double().eval()
    for name in model.item_tables:
        model.load_item_table(name, torch.randn(dataset.item_num - 1, 8).double())
    evaluator = Evaluator(config, dataset, dict(zip(("valid", "test"), parts[1:], strict=True)))
    expected = evaluator.evaluate(model, phase, ["seen"]).metrics["seen"]
    found = metrics(model.network, dataset.histories, phase, size=7)
    assert found == pytest.approx({key: expected[key] for key in found}, abs=1e-12)
    assert 0 < found["ndcg@10"] < found["recall@20"]


def test_inputs_come_back_as_they_were_written(inputs: Inputs, tmp_path: Path) -> None:
    again = Inputs.read(tmp_path)
    assert np.array_equal(again.histories.items, inputs.histories.items)
    assert np.array_equal(again.histories.offsets, inputs.histories.offsets)
    assert again.histories.items.dtype == again.histories.offsets.dtype == np.int64
    assert again.facts == {"dataset": "synthetic"}
    assert {"graph", "sequence", "language"} == again.tables.keys()
    for name, table in again.tables.items():
        assert torch.equal(table, inputs.tables[name])


def test_missing_and_damaged_inputs_are_told(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "data.safetensors").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"data\.safetensors cannot be read"):
        Inputs.read(tmp_path)
    with pytest.raises(DataError, match=r"data\.safetensors cannot be read"):
        Inputs.read(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="hold no picture table"):
        build(Job("random", 2, "none", ("picture",)), inputs, CPU, 0)


@pytest.mark.parametrize(
    ("weights", "trained"), [("pretrained", False), ("random", False), ("whole", True)]
)
def test_decoders_are_read_drawn_frozen_and_trained(
    inputs: Inputs, weights: str, trained: bool
) -> None:
    network = build(Job(weights, 4, "graph", BOTH), inputs, CPU, 0)
    query = network.model.layers[3].self_attn.q_proj.weight
    stored = gpu_training.packed_backbone.unpack(inputs.backbone).layers[3].self_attn.q_proj.weight
    assert query.requires_grad == trained
    assert torch.equal(query, stored) == (weights == "pretrained")
    assert network.backbone.n_layers == 4
    adapted = any("lora" in name for name, _ in network.named_parameters())
    assert adapted != trained


def test_training_yields_its_epochs_and_tests_the_best(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.5, 0.1, 0.5])
    states: list[torch.Tensor] = []

    def scored(network: HeLLMNetwork, _histories: Any, phase: str) -> dict[str, float]:
        states.append(network.head.linear.weight.detach().clone())
        return {"ndcg@10": next(scores) if phase == "valid" else 0.0}

    monkeypatch.setattr(gpu_training, "metrics", scored)
    figures = list(train(Job("pretrained", 2, "static", BOTH), inputs, CPU, 4, 600.0))
    assert [figure.get("epoch") for figure in figures] == [1, 2, 3, 4, None]
    assert [figure["loss"] for figure in figures[:4]] == sorted(
        (figure["loss"] for figure in figures[:4]), reverse=True
    )
    assert figures[4]["best_epoch"] == 2
    assert torch.equal(states[4], states[1]) and not torch.equal(states[4], states[3])


def test_an_epoch_reads_the_sequences_that_the_package_reads(
    inputs: Inputs, make_parts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset, _ = make_parts("HeLLM", MAX_ITEM_LIST_LENGTH=50, train_batch_size=512)
    shown: list[torch.Tensor] = []
    own_loss = HeLLMNetwork.sequence_loss

    def loss(self: HeLLMNetwork, sequences: torch.Tensor) -> torch.Tensor:
        shown.append(sequences)
        return own_loss(self, sequences)

    monkeypatch.setattr(HeLLMNetwork, "sequence_loss", loss)
    tables = {name: torch.randn(dataset.item_num - 1, 8) for name in BOTH}
    toy = Inputs(dataset.histories, tables, inputs.backbone, {})
    list(train(Job("random", 1, "none", BOTH), toy, CPU, 1, 600.0, seed=config["seed"]))
    expected = [batch["item_id_list"] for batch in SequenceLoader(config, dataset)]
    assert len(shown) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(shown, expected, strict=True))


def test_no_epoch_begins_that_would_not_end_in_time(inputs: Inputs) -> None:
    figures = list(train(Job("random", 1, "none", BOTH), inputs, CPU, 50, 0.0))
    assert [figure.get("epoch") for figure in figures] == [1, None]
    assert set(figures[1]["test"]) == {"ndcg@10", "recall@20"}


def test_a_loss_that_is_not_finite_ends_training(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self: HeLLMNetwork, _sequences: torch.Tensor) -> torch.Tensor:
        return self.head.linear.weight.sum() * torch.nan

    monkeypatch.setattr(HeLLMNetwork, "sequence_loss", loss)
    with pytest.raises(DivergenceError, match="loss is nan in epoch 1"):
        list(train(Job("random", 1, "none", BOTH), inputs, CPU, 1, 600.0))
