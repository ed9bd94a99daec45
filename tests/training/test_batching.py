from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.models.sequential.hellm import HeLLM
from recbole_hellm.training.batching import MicroBatcher, TokenCount, plan


def size(tokens: np.ndarray, rows: np.ndarray) -> int:
    return len(rows) * int(tokens[rows].max())


def splits(rows: list[int], parts: int) -> Any:
    """All ways to cut a list into so many runs."""
    for cuts in itertools.combinations(range(1, len(rows)), parts - 1):
        ends = (0, *cuts, len(rows))
        yield [rows[a:b] for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("seed", range(60))
def test_every_row_is_in_one_part_that_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0 if seed % 7 == 0 else 1, 40, rng.integers(1, 50))
    limit = None if seed % 10 == 0 else int(rng.integers(1, 200))
    processes = int(rng.integers(1, 5))
    parts = plan(tokens, limit, processes)
    working = [part.rows for part in parts if not part.idle]
    assert sorted(np.concatenate(working).tolist()) == list(range(len(tokens)))
    assert all(len(part.rows) > 0 for part in parts)
    assert len(parts) % processes == 0
    assert len(parts) - len(working) < processes
    for rows in working:
        assert limit is None or len(rows) == 1 or size(tokens, rows) <= limit
    again = plan(tokens.copy(), limit, processes)
    assert [part.rows.tolist() for part in again] == [part.rows.tolist() for part in parts]
    if len(parts) > 1:
        # Rows of similar length together: longest first, across parts too.
        flat = [tokens[row] for rows in working for row in rows]
        assert flat == sorted(flat, reverse=True)


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_few_and_even(seed: int) -> None:
    """Against every way to cut the sorted rows."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 12, 9)
    limit, processes = int(rng.integers(12, 60)), int(rng.integers(1, 4))
    order = sorted(range(9), key=lambda row: -tokens[row])
    worst = {
        count: min(
            max(size(tokens, np.array(rows)) for rows in split) for split in splits(order, count)
        )
        for count in range(1, 10)
    }
    fewest = min(count for count, found in worst.items() if found <= limit)
    wanted = -(-fewest // processes) * processes
    parts = plan(tokens, limit, processes)
    assert len(parts) == wanted
    sizes = [size(tokens, part.rows) for part in parts if not part.idle]
    assert max(sizes) == min(worst[count] for count in range(1, min(wanted, 9) + 1))


def padded(tokens: np.ndarray) -> tuple[int, int]:
    return int(tokens.sum()), len(tokens) * int(tokens.max())


def test_a_batch_that_fits_keeps_its_order() -> None:
    tokens = np.array([3, 9, 1, 5])
    for limit in (None, 36, 100):
        (part,) = plan(tokens, limit)
        assert (part.rows.tolist(), part.idle) == ([0, 1, 2, 3], False)
    assert len(plan(tokens, 35)) == 2


def test_a_row_over_the_limit_stands_alone() -> None:
    parts = [part.rows.tolist() for part in plan(np.array([2, 50, 2, 60]), 10)]
    assert parts == [[3], [1], [0, 2]]


def test_processes_without_rows_idle() -> None:
    parts = plan(np.array([4, 7]), None, 4)
    assert [(part.rows.tolist(), part.idle) for part in parts] == [
        ([1], False),
        ([0], False),
        ([0], True),
        ([0], True),
    ]


def test_neighbouring_parts_are_of_similar_size() -> None:
    tokens = np.random.default_rng(0).integers(5, 60, 400)
    parts = plan(tokens, 512, 2)
    sizes = [size(tokens, part.rows) for part in parts]
    assert min(sizes) > 0.75 * max(sizes)


def test_tokens_are_counted() -> None:
    fields = {"ITEM_LIST_LENGTH_FIELD": "length", "LIST_SUFFIX": "_list"}
    model = SimpleNamespace(
        sample_tokens=lambda rows: rows["length"] + 1,
        pass_tokens=padded,
        target_counts=lambda rows: torch.tensor([2, 1, 1]),
    )
    lengths = torch.tensor([4, 2, 1])
    batch = Interaction({"item_list": torch.arange(12).view(3, 4), "length": lengths})
    micro_batcher = MicroBatcher(model, fields, 7)
    (first, share), (second, rest) = micro_batcher.split(batch)
    assert (first["item_list"].tolist(), share) == ([[0, 1, 2, 3]], 0.5)
    assert (second["item_list"].tolist(), rest) == ([[4, 5], [8, 9]], 0.5)
    assert micro_batcher.tokens == TokenCount(5 + 3 + 2, 5 + 2 * 3)
    assert micro_batcher.tokens.costs(2.0) == {
        "padding_share": 1 - 10 / 11,
        "tokens_per_second": 5.0,
    }
    assert MicroBatcher(object(), fields, None).split(batch) == [(batch, 1.0)]
    assert TokenCount().costs(1.0) == {}


def test_rows_of_other_models_are_divided() -> None:
    fields = {"ITEM_LIST_LENGTH_FIELD": "length", "LIST_SUFFIX": "_list"}
    batch = Interaction({"user_id": torch.arange(5)})
    parts = [MicroBatcher(object(), fields, None, rank, 2).split(batch) for rank in range(2)]
    assert [[(rows["user_id"].tolist(), share) for rows, share in part] for part in parts] == [
        [([0, 1], 0.4)],
        [([2, 3, 4], 0.6)],
    ]
    itself = SimpleNamespace(portion_loss=None)
    assert MicroBatcher(itself, fields, None, 1, 2).split(batch) == [(batch, 1.0)]


def test_processes_take_all_parts_between_them() -> None:
    fields = {"ITEM_LIST_LENGTH_FIELD": "length", "LIST_SUFFIX": "_list"}
    model = SimpleNamespace(
        sample_tokens=lambda rows: rows["length"],
        pass_tokens=padded,
        target_counts=lambda rows: rows["length"],
    )
    batch = Interaction({"item_list": torch.ones(5, 9), "length": torch.tensor([9, 7, 7, 4, 1])})
    seen, shares, counts = [], 0.0, []
    for rank in range(3):
        micro_batcher = MicroBatcher(model, fields, 10, rank, 3)
        parts = micro_batcher.split(batch)
        assert len(parts) == 2
        seen += [length for part, share in parts if share for length in part["length"].tolist()]
        shares += sum(share for _, share in parts)
        counts.append(micro_batcher.tokens)
    assert sorted(seen) == [1, 4, 7, 7, 9]
    assert shares == pytest.approx(1)
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("max_tokens", [1, 9, None])
@pytest.mark.parametrize(
    "options",
    [
        {"targets": "every"},
        {"targets": "last", "prompt": "alpaca"},
        {"targets": "last", "prompt": "alpaca", "prefix": "static"},
    ],
    ids=["every", "last", "several"],
)
def test_gradients_of_the_parts_add_up_to_the_batchs(
    make_parts: Callable[..., Any],
    small_model: dict[str, Any],
    options: dict[str, Any],
    max_tokens: int | None,
    world: int,
) -> None:
    if "prompt" in options and max_tokens == 9:
        max_tokens = 80 if "prefix" in options else 400
    still = {"backbone_dropout": 0.0, "prefix_dropout": 0.0, "train_batch_size": 20}
    config, dataset, parts = make_parts("HeLLM", **small_model | still | options)
    torch.manual_seed(5)
    model = HeLLM(config, parts[0]).double()
    for role in model.item_tables:
        model.load_item_table(role, torch.randn(dataset.item_num - 1, 8).double())
    batch = max(training_loader(config, dataset, parts, model), key=len)
    trained = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(model.calculate_loss(batch), trained)
    cutters = [MicroBatcher(model, config, max_tokens, rank, world) for rank in range(world)]
    cut = [pair for micro_batcher in cutters for pair in micro_batcher.split(batch)]
    assert len(cut) >= (1 if max_tokens is None else 3)
    loss = sum(model.calculate_loss(part) * share for part, share in cut)
    for whole, summed in zip(wanted, torch.autograd.grad(loss, trained), strict=True):
        torch.testing.assert_close(whole, summed, rtol=1e-9, atol=1e-12)


def test_the_prompt_counts_where_every_row_reads_it(
    make_parts: Callable[..., Any], small_model: dict[str, Any]
) -> None:
    rows = Interaction(
        {"item_id_list": torch.tensor([[3, 5, 7], [2, 4, 0]]), "item_length": torch.tensor([3, 2])}
    )
    for targets, tokens, counts in (("every", [2, 1], [2, 1]), ("last", [3, 2], [1, 1])):
        config, _, parts = make_parts("HeLLM", **small_model | {"targets": targets})
        model = HeLLM(config, parts[0])
        assert model.sample_tokens(rows).tolist() == tokens
        assert model.target_counts(rows).tolist() == counts
    config, _, parts = make_parts("HeLLM", **small_model, targets="last", prompt="alpaca")
    model = HeLLM(config, parts[0])
    words = len(model.network.prompt.instruction) + len(model.network.prompt.response)
    assert words > 20
    assert model.sample_tokens(rows).tolist() == [3 + words, 2 + words]
