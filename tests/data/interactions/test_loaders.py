from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_hellm import compat
from recbole_hellm.data.interactions.loaders import (
    FIRST_TARGET,
    HistoryLoader,
    RecBoleLoader,
    SequenceLoader,
    TargetLoader,
    UserUniformLoader,
    training_loader,
    trim_histories,
)
from recbole_hellm.errors import DataError
from recbole_hellm.registry import TRIMMABLE, model_class

Parts = Callable[..., tuple[Any, Any, list[Any]]]


class Wants:
    """Stands for a model that asks for a kind of batches."""

    def __init__(self, batches: str, train_users: float = 1.0) -> None:
        self.batches, self.train_users = batches, train_users


def rows_of(batch: Any) -> list[tuple[Any, ...]]:
    """A batch as a list of rows without padding."""
    names = sorted(name for name in batch.columns if batch[name].dim() == 1)
    lists = sorted(name for name in batch.columns if batch[name].dim() == 2)
    rows = []
    for row in range(len(batch)):
        length = int(batch["item_length"][row])
        histories = [tuple(batch[name][row, :length].tolist()) for name in lists]
        rows.append((*(batch[name][row].item() for name in names), *histories))
    return rows


def same_batches(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        a.columns == b.columns and all(torch.equal(a[name], b[name]) for name in a.columns)
        for a, b in zip(first, second, strict=True)
    )


def test_trimming_cuts_padding_only() -> None:
    rows = Interaction(
        {
            "item_length": torch.tensor([2, 3]),
            "item_id_list": torch.tensor([[4, 5, 0, 0, 0], [1, 2, 3, 0, 0]]),
            "time_list": torch.tensor([[0.4, 0.5, 0, 0, 0], [0.1, 0.2, 0.3, 0, 0]]),
            "item_id": torch.tensor([6, 7]),
        }
    )
    trimmed = trim_histories(rows, "item_length", "_list")
    assert trimmed["item_id_list"].tolist() == [[4, 5, 0], [1, 2, 3]]
    assert trimmed["time_list"].shape == (2, 3)
    assert trimmed["item_id"].tolist() == [6, 7]
    assert rows["item_id_list"].shape == (2, 5)


def test_history_batches_are_the_training_rows(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("SASRec", train_batch_size=16, MAX_ITEM_LIST_LENGTH=6)
    loader = training_loader(config, dataset, parts, object())  # as a model without a wish
    assert isinstance(loader, HistoryLoader)
    batches = list(loader)
    assert len(batches) == len(loader)
    found = [row for batch in batches for row in rows_of(batch)]
    assert sorted(found) == sorted(rows_of(parts[0].inter_feat))
    for batch in batches:
        assert batch["item_id_list"].shape[1] == int(batch["item_length"].max())
    assert any(batch["item_id_list"].shape[1] < 6 for batch in batches)


def test_no_bucketing_where_negatives_are_drawn(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("SASRec", loss_type="BPR")
    loader = training_loader(config, dataset, parts, object())
    assert isinstance(loader, RecBoleLoader)
    assert "neg_item_id" in next(iter(loader))


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_sequences_are_whole_training_histories(make_parts: Parts, limit: int) -> None:
    config, dataset, parts = make_parts("SASRec", train_batch_size=8, MAX_ITEM_LIST_LENGTH=limit)
    loader = training_loader(config, dataset, parts, Wants("sequences"))
    assert isinstance(loader, SequenceLoader)
    found = {}
    for batch in loader:
        assert set(batch.columns) == {"user_id", "item_id_list", "item_length"}
        width = int(batch["item_length"].max())
        assert batch["item_id_list"].shape == (len(batch), width)
        for user, items, length in zip(
            batch["user_id"].tolist(), batch["item_id_list"], batch["item_length"], strict=True
        ):
            assert user not in found
            found[user] = items[:length].tolist()
            assert not items[length:].any()
    histories = dataset.histories
    rows, items = histories.training(np.arange(dataset.user_num))
    wanted = {user: items[rows == user].tolist()[-limit - 1 :] for user in range(dataset.user_num)}
    assert found == {user: items for user, items in wanted.items() if len(items) >= 2}


@pytest.mark.parametrize("kind", ["sequences", "targets", "histories"])
def test_a_share_of_users_trains_in_every_kind_of_batches(make_parts: Parts, kind: str) -> None:
    config, dataset, parts = make_parts("HeLLM", train_batch_size=8)
    chosen = set(dataset.histories.learning_users(0.4, config["seed"]).tolist())
    rows = {
        share: [
            row
            for batch in training_loader(config, dataset, parts, Wants(kind, share))
            for row in zip(batch["user_id"].tolist(), batch["item_length"].tolist(), strict=True)
        ]
        for share in (0.4, 1.0)
    }
    assert chosen < {user for user, _ in rows[1.0]}
    assert sorted(rows[0.4]) == sorted(row for row in rows[1.0] if row[0] in chosen)


@pytest.mark.parametrize("limit", [3, 50])
@pytest.mark.parametrize("size", [2, 64])
def test_rows_of_several_targets_hold_the_samples_of_single_histories(
    make_parts: Parts, limit: int, size: int
) -> None:
    config, dataset, parts = make_parts("HeLLM", MAX_ITEM_LIST_LENGTH=limit, train_batch_size=size)
    wanted = []
    for batch in training_loader(config, dataset, parts, Wants("histories")):
        for row in range(len(batch)):
            length = int(batch["item_length"][row])
            history = batch["item_id_list"][row, :length].tolist()
            wanted.append((int(batch["user_id"][row]), history, int(batch["item_id"][row])))
    loader = training_loader(config, dataset, parts, Wants("targets"))
    assert isinstance(loader, TargetLoader)
    found = []
    for batch in loader:
        lengths, first = batch["item_length"].tolist(), batch[FIRST_TARGET].tolist()
        held = sum(length - read for length, read in zip(lengths, first, strict=True))
        assert held <= 2 * size
        for row, (length, read) in enumerate(zip(lengths, first, strict=True)):
            items = batch["item_id_list"][row].tolist()
            assert not any(items[length:])
            found += [
                (int(batch["user_id"][row]), items[:place], items[place])
                for place in range(read, length)
            ]
    assert sorted(found) == sorted(wanted)
    assert len(loader.users) < len(wanted)


def samples_of(kind: str, batch: Any) -> list[tuple[int, list[int], int]]:
    """Every (user, history, target) of a batch; an empty history is one item of padding."""
    found = []
    for row, user in enumerate(batch["user_id"].tolist()):
        length = int(batch["item_length"][row])
        items = batch["item_id_list"][row, :length].tolist()
        if kind == "histories":
            found.append((user, items, int(batch["item_id"][row])))
        else:
            first = int(batch[FIRST_TARGET][row]) if kind == "targets" else 1
            found += [(user, items[:place], items[place]) for place in range(first, length)]
    return found


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("kind", ["sequences", "targets", "histories"])
def test_first_items_are_targets_once_in_every_kind_of_batches(
    make_parts: Parts, kind: str, share: float
) -> None:
    options = {"train_batch_size": 8, "bucket_by_length": True}
    found = {}
    for first in (False, True):
        config, dataset, parts = make_parts("HeLLM", first_item_target=first, **options)
        loader = training_loader(config, dataset, parts, Wants(kind, share))
        found[first] = [sample for batch in loader for sample in samples_of(kind, batch)]
    histories = dataset.histories
    users = histories.learning_users(share, config["seed"], first_items=True)
    firsts = [(user, [0], int(histories.items[histories.offsets[user]])) for user in users]
    assert sorted(sample for sample in found[True] if sample[1] == [0]) == sorted(firsts)
    rest = sorted(sample for sample in found[True] if sample[1] != [0])
    if share == 1:
        assert rest == sorted(found[False])
        assert len(found[True]) == histories.training_lengths.sum()
    else:
        assert {user for user, *_ in rest} <= set(users.tolist())


@pytest.mark.parametrize(
    ("model", "options", "loader"),
    [
        ("SASRec", {}, HistoryLoader),
        ("SASRec", {"loss_type": "BPR"}, RecBoleLoader),
        ("GRU4Rec", {}, RecBoleLoader),
        ("BSARec", {}, HistoryLoader),
    ],
)
def test_first_items_are_in_the_batches_of_models_that_read_histories(
    make_parts: Parts, model: str, options: dict[str, Any], loader: type
) -> None:
    config, dataset, parts = make_parts(model, first_item_target=True, **options)
    built = model_class(model)(config, parts[0])
    batches = training_loader(config, dataset, parts, built)
    assert isinstance(batches, loader)
    found = [sample for batch in batches for sample in samples_of("histories", batch)]
    assert len(found) == dataset.histories.training_lengths.sum()
    losses = [built.calculate_loss(batch) for batch in batches]
    assert all(torch.isfinite(loss) for loss in losses)


def test_uniform_triples_use_training_items_only(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("HeLLMPre", train_batch_size=16)
    loader = training_loader(config, dataset, parts, Wants("user_uniform"))
    assert isinstance(loader, UserUniformLoader)
    rows, items = dataset.histories.training(np.arange(dataset.user_num))
    trained = set(zip(rows.tolist(), items.tolist(), strict=True))
    batches = list(loader)
    assert len(batches) == len(loader)
    for batch in batches:
        users = batch["user_id"].tolist()
        assert len(set(users)) == len(users)
        assert set(zip(users, batch["item_id"].tolist(), strict=True)) <= trained
        assert not set(zip(users, batch["neg_item_id"].tolist(), strict=True)) & trained


@pytest.mark.parametrize(
    ("model", "kind"),
    [("SASRec", None), ("SASRec", "sequences"), ("HeLLMPre", "user_uniform"), ("BPR", None)],
)
def test_restored_state_gives_the_same_batches(
    make_parts: Parts, model: str, kind: str | None
) -> None:
    config, dataset, parts = make_parts(model, train_batch_size=16)
    wants = Wants(kind) if kind else object()
    loader = training_loader(config, dataset, parts, wants)
    np.random.seed(0)
    first = list(loader)
    state, numpy_state = loader.state_dict(), np.random.get_state()
    second = list(loader)
    fresh = training_loader(config, dataset, parts, wants)
    np.random.set_state(numpy_state)  # RecBole draws negatives from numpy's global generator
    fresh.load_state_dict(state)
    assert same_batches(list(fresh), second)
    assert not same_batches(first, second)


def test_a_user_with_every_item_is_told(
    make_parts: Parts, tmp_path: Path, make_dataset: Any
) -> None:
    rows = [(f"u{user}", f"i{step}", step) for user in range(4) for step in range(4 + user)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    make_dataset(tmp_path / "tiny", frame)
    config, dataset, parts = make_parts("BPR", data_path=str(tmp_path))
    with pytest.raises(DataError, match="Some users of 'tiny' have interacted with all 7 items"):
        training_loader(config, dataset, parts, object())
    assert len(training_loader(*make_parts("SASRec", data_path=str(tmp_path)), object()))


@pytest.mark.parametrize("wants", ["sequences", "histories", "targets", None])
def test_users_without_a_next_item_to_learn_are_told(
    wants: str | None, make_parts: Parts, tmp_path: Path, make_dataset: Any
) -> None:
    rows = [(f"u{user}", f"i{user + step}", step) for user in range(4) for step in range(3)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    make_dataset(tmp_path / "tiny", frame)
    config, dataset, parts = make_parts("SASRec", data_path=str(tmp_path))
    with pytest.raises(DataError, match="No user of 'tiny' has two interactions beside those"):
        training_loader(config, dataset, parts, Wants(wants) if wants else object())


@pytest.mark.parametrize("name", [name for name in TRIMMABLE if name != "HeLLM"])
def test_trimming_changes_neither_loss_nor_scores(make_parts: Parts, name: str) -> None:
    dropout = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    options = dropout if name == "SASRec" else {"dropout_prob": 0.0}
    compat.see_padding_at_the_first_place()
    config, _, parts = make_parts(name, MAX_ITEM_LIST_LENGTH=20, **options)
    torch.manual_seed(3)
    model = model_class(name)(config, parts[0]).double()
    rows = parts[0].with_first_items().inter_feat
    full = rows[[*range(30), *range(len(rows) - 10, len(rows))]]
    trimmed = trim_histories(full, "item_length", "_list")
    assert trimmed["item_id_list"].shape[1] < full["item_id_list"].shape[1]
    losses, gradients = [], []
    for rows in (full, trimmed):
        model.zero_grad()
        loss = model.calculate_loss(rows)
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.item_embedding.weight.grad.clone())
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)
    model.eval()
    with torch.no_grad():
        scores = [model.full_sort_predict(rows) for rows in (full, trimmed)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-12, rtol=0)
