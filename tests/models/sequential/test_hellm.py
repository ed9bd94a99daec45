from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_hellm.data.interactions.loaders import (
    FIRST_TARGET,
    HistoryLoader,
    SequenceLoader,
    TargetLoader,
    training_loader,
    trim_histories,
)
from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.models.sequential.hellm import HeLLM

Make = Callable[..., tuple[HeLLM, Any, Any, list[Any]]]


@pytest.fixture
def make(make_parts: Callable[..., Any], small_model: dict[str, Any]) -> Make:
    def build(**options: Any) -> tuple[HeLLM, Any, Any, list[Any]]:
        quiet = {"backbone_dropout": 0.0, "prefix_dropout": 0.0}
        config, dataset, parts = make_parts("HeLLM", **small_model | quiet | options)
        torch.manual_seed(5)
        model = HeLLM(config, parts[0]).double()
        for number, role in enumerate(model.item_tables):
            width = model.network.tokens.table(role).embedding_dim
            model.load_item_table(role, torch.randn(dataset.item_num - 1, width).double() + number)
        return model, config, dataset, parts

    return build


def targets_of(histories: torch.Tensor, lengths: torch.Tensor) -> list[tuple[list[int], int]]:
    """Every (history, next item) of right-padded sequences."""
    return [
        (row[:position].tolist(), int(row[position]))
        for row, length in zip(histories, lengths, strict=True)
        for position in range(1, int(length))
    ]


LOADERS = {"sequences": SequenceLoader, "targets": TargetLoader, "histories": HistoryLoader}
ONE_PASS = {"targets": "last", "prefix": "none", "prompt": "alpaca", "multi_target": True}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("options", "kind"),
    [({}, "sequences"), ({"targets": "last"}, "histories"), (ONE_PASS, "targets")],
    ids=["every", "last", "one pass"],
)
def test_the_loss_is_a_mean_cross_entropy_over_all_items(
    make: Make, options: dict[str, Any], kind: str, first: bool
) -> None:
    """Recomputed from the scores that the model gives to each history alone."""
    options = options | {"first_item_target": first, "train_batch_size": 20}
    model, config, dataset, parts = make(**options)
    loader = training_loader(config, dataset, parts, model)
    assert model.batches == kind
    assert isinstance(loader, LOADERS[kind])
    batch = next(batch for batch in loader if first != bool(batch["item_id_list"][:, 0].all()))
    model.eval()
    if kind == "sequences":
        pairs = targets_of(batch["item_id_list"], batch["item_length"])
    elif kind == "targets":
        rows = zip(batch["item_id_list"], batch["item_length"], batch[FIRST_TARGET], strict=True)
        pairs = [
            (row[:read].tolist(), int(row[read]))
            for row, length, first in rows
            for read in range(int(first), int(length))
        ]
    else:
        pairs = [
            (row[: int(length)].tolist(), int(target))
            for row, length, target in zip(
                batch["item_id_list"], batch["item_length"], batch["item_id"], strict=True
            )
        ]
    losses = []
    for history, target in pairs:
        rows = Interaction(
            {"item_id_list": torch.tensor([history]), "item_length": torch.tensor([len(history)])}
        )
        scores = model.full_sort_predict(rows)[0]
        losses.append(torch.logsumexp(scores[1:], 0) - scores[target])
    assert len(losses) >= 15
    assert int(model.target_counts(batch).sum()) == len(losses)
    torch.testing.assert_close(model.calculate_loss(batch), torch.stack(losses).mean())


@pytest.mark.parametrize("targets", ["every", "last"])
def test_scores_depend_on_the_history_alone(make: Make, targets: str) -> None:
    """Not on padding, nor on the other rows of a batch."""
    model, _, dataset, parts = make(targets=targets)
    model.eval()
    rows = parts[2].inter_feat
    together = model.full_sort_predict(rows)
    assert together.shape == (len(rows), dataset.item_num)
    assert together[:, 0].eq(-torch.inf).all()
    trimmed = trim_histories(rows[:5], "item_length", "_list")
    torch.testing.assert_close(model.full_sort_predict(trimmed), together[:5])
    alone = [model.full_sort_predict(rows[row : row + 1]) for row in range(6)]
    torch.testing.assert_close(torch.cat(alone), together[:6])


def test_pairs_have_the_scores_of_the_full_list(make: Make) -> None:
    model, _, _, parts = make()
    model.eval()
    rows = parts[1].inter_feat
    scores = model.full_sort_predict(rows)
    wanted = torch.stack([scores[row, item] for row, item in enumerate(rows["item_id"].tolist())])
    torch.testing.assert_close(model.predict(rows), wanted)


@pytest.mark.parametrize(
    ("options", "roles"),
    [
        ({}, ["graph", "sequence"]),
        ({"prefix": "none"}, ["graph", "sequence"]),
        ({"prefix": "none", "item_inputs": ["sequence"]}, ["sequence"]),
        ({"item_inputs": ["sequence"]}, ["graph", "sequence"]),
        ({"item_inputs": ["graph"]}, ["graph"]),
        ({"prefix": "static", "item_inputs": [], "item_vectors": True}, []),
        ({"sequence_model": None, "item_inputs": ["graph"]}, ["graph"]),
    ],
)
def test_only_embeddings_that_are_used_are_asked_for(
    make: Make, options: dict[str, Any], roles: list[str]
) -> None:
    model, _, _, parts = make(**options)
    assert model.item_tables == roles
    assert torch.isfinite(model.calculate_loss(_sequences(parts)))


def test_embeddings_go_to_the_rows_of_their_items(make: Make) -> None:
    model, _, _, _ = make(normalise_tables=False)
    table = torch.arange(30 * 8.0).view(30, 8)
    model.load_item_table("graph", table)
    weight = model.network.tokens.table("graph").weight
    assert torch.equal(weight[1:], table.double())
    assert not weight[0].any()


def test_embeddings_of_another_shape_are_told(make: Make) -> None:
    model, _, _, _ = make()
    with pytest.raises(
        ConfigError, match=r"5-wide item embeddings and graph_dim is 8; set --graph_d"
    ):
        model.load_item_table("graph", torch.ones(30, 5))
    with pytest.raises(DataError, match="30 items need 31 rows"):
        model.load_item_table("graph", torch.ones(29, 8))


def test_a_missing_stage_is_told(make: Make) -> None:
    with pytest.raises(ConfigError, match="prefix=graph needs the graph embeddings"):
        make(graph_model=None, item_inputs=["sequence"])
    with pytest.raises(DataError, match="take sequence out of item_inputs"):
        make(sequence_model=None)


def test_blocks_are_the_layers_and_an_instruction_on_the_way_is_refused(make: Make) -> None:
    model, _, _, _ = make(backbone_layers=2)
    assert model.blocks == list(model.network.model.layers)
    assert len(make(targets="last", prompt="alpaca")[0].blocks) == 1
    for options in ({"prompt": "alpaca"}, ONE_PASS):
        with pytest.raises(ConfigError, match="parallel=fsdp cannot train targets=every or multi"):
            _ = make(**options)[0].blocks
    assert make(**ONE_PASS | {"multi_target": False})[0].blocks


def test_the_pad_bug_wants_batches_with_padding(make: Make) -> None:
    options = {"targets": "last", "gram_pad_bug": True}
    with pytest.raises(ConfigError, match="set bucket_by_length=False"):
        make(**options)
    assert make(**options, bucket_by_length=False)[0].settings.gram_pad_bug


def test_an_empty_history_needs_something_to_read(make: Make) -> None:
    vectors = {"item_inputs": [], "item_vectors": True, "first_item_target": True}
    with pytest.raises(ConfigError, match=r"item_inputs=\[\] with prefix=none and prompt=none lea"):
        make(**vectors, prefix="none", prompt="none", targets="last")
    assert make(**vectors, prefix="static", prompt="none")[0].settings.prefix == "static"


def test_tokens_are_counted_as_they_are_read(make: Make) -> None:
    for options in ({"targets": "last", "prompt": "alpaca"}, ONE_PASS):
        model, config, dataset, parts = make(**options, train_batch_size=20)
        batch = next(iter(training_loader(config, dataset, parts, model)))
        inputs: list[torch.Tensor] = []
        model.network.model.register_forward_pre_hook(
            lambda _module, _args, given, seen=inputs: seen.append(given["inputs_embeds"]),
            with_kwargs=True,
        )
        model.calculate_loss(batch)
        # The instruction has a pass of its own where it is shared; empty slots are zeros.
        read = int(inputs[-1].abs().sum(-1).gt(0).sum())
        if model.batches == "histories":
            lengths = batch["item_length"]
            read = inputs[-1].shape[:2].numel() - int((lengths.max() - lengths).sum())
        assert int(model.sample_tokens(batch).sum()) == read


def test_parameter_groups_hold_every_trained_parameter_once(make: Make) -> None:
    model, _, _, _ = make()
    groups = model.parameter_groups(0.1)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {group["weight_decay"] for group in groups} == {0.1, 0.0}


def test_training_reaches_every_trained_parameter(make: Make) -> None:
    model, _, _, parts = make()
    model.calculate_loss(_sequences(parts)).backward()
    missing = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert missing == []


def _sequences(parts: list[Any]) -> Interaction:
    rows = parts[0].inter_feat
    longest = rows["item_length"].argsort(descending=True)[:6]
    lists = torch.cat([rows["item_id_list"][longest], rows["item_id"][longest][:, None]], 1)
    packed = torch.zeros_like(lists)
    for row, (items, length) in enumerate(zip(lists, rows["item_length"][longest], strict=True)):
        packed[row, : int(length) + 1] = torch.cat([items[: int(length)], items[-1:]])
    return Interaction({"item_id_list": packed, "item_length": rows["item_length"][longest] + 1})


def test_gates_know_the_training_interactions(make: Make) -> None:
    model, _, dataset, _ = make(item_gate=True)
    expected, histories = [0] * dataset.item_num, dataset.histories
    for start, end in zip(histories.offsets[:-1], histories.offsets[1:], strict=True):
        held_out = 2 if end - start >= 3 else 0
        for item in histories.items[start : end - held_out]:
            expected[item] += 1
    assert model.network.tokens.gates is not None
    assert model.network.tokens.gates.counts.tolist() == expected


def test_exported_tokens_leave_no_role_out(make: Make) -> None:
    model, _, _, _ = make(role_dropout=0.9)
    expected = model.eval().network.tokens.all()
    model.train()
    with torch.no_grad():
        exported = model.export_item_tokens(model.state_dict())
    torch.testing.assert_close(exported, expected)
