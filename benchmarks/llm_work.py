"""Histories and batches for :mod:`llm_throughput`: real or synthetic, as they come or bucketed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recbole_hellm.data.interactions.batches import BucketedBatches, target_rows
from recbole_hellm.data.interactions.histories import Histories

LIMIT = 50  # items of a history
# Tokens of the prompt under LLaMA-2's tokenizer (docs/method.md, Prompt and positions).
INSTRUCTION, RESPONSE = 65, 8
Batch = tuple[Tensor, Tensor, Tensor]  # items, lengths, and targets or places of the first target


@dataclasses.dataclass
class Work:
    """Batches, and what they amount to: samples, and tokens that go through the decoder."""

    batches: list[Batch]
    samples: int
    tokens: int


def read_histories(file: Path) -> tuple[Histories, int]:
    """Histories from an atomic file with ``position`` or ``timestamp``; and the number of items."""
    frame = pd.read_csv(file, sep="\t")
    frame.columns = [name.partition(":")[0] for name in frame.columns]
    order = "position" if "position" in frame else "timestamp"
    frame = frame.sort_values(["user_id", order], kind="stable")
    users, names = pd.factorize(frame["user_id"])
    items, catalogue = pd.factorize(frame["item_id"], sort=True)
    return Histories.from_pairs(users + 1, items + 1, len(names) + 1), len(catalogue)


def synthetic_histories(n_users: int, n_items: int, seed: int) -> tuple[Histories, int]:
    """Lengths 5 + a long-tailed surplus with Beauty's mean of 8.9; items by a Zipf-like law."""
    rng = np.random.default_rng(seed)
    lengths = 5 + np.minimum(rng.geometric(1 / 4.9, n_users) - 1, 200)
    popularity = (np.arange(n_items) + 20.0) ** -0.63
    items = rng.choice(n_items, lengths.sum(), p=popularity / popularity.sum()) + 1
    users = np.repeat(np.arange(1, n_users + 1), lengths)
    return Histories.from_pairs(users, items, n_users + 1), n_items


def padded(histories: Histories, starts: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Stretches of ``histories.items`` as rows, right-padded with 0."""
    columns = np.arange(lengths.max())
    valid = columns < lengths[:, None]
    places = np.where(valid, starts[:, None] + columns, 0)
    return torch.from_numpy(np.where(valid, histories.items[places], 0))


def evaluation(
    histories: Histories, size: int, count: int, seed: int, shared: bool = False
) -> Work:
    """Whole histories but the test item; a user a batch, or sorted by length.

    With `shared`, the instruction is read once a batch.
    """
    users = histories.evaluated("test")
    users = np.random.default_rng(seed).choice(users, min(count, len(users)), replace=False)
    lengths = np.minimum(histories.lengths[users] - 1, LIMIT)
    starts = histories.offsets[users + 1] - 1 - lengths
    order = np.argsort(lengths, kind="stable") if size > 1 else np.arange(len(users))
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    batches = [
        (padded(histories, starts[rows], lengths[rows]), torch.from_numpy(lengths[rows]), Tensor())
        for rows in chunks
    ]
    instructions = len(batches) if shared else len(users)
    return Work(batches, len(users), int((lengths + RESPONSE).sum()) + INSTRUCTION * instructions)


def training(histories: Histories, size: int, count: int, seed: int, bucketed: bool) -> Work:
    """Samples (history, next item): bucketed by length, or as they come."""
    rows = np.flatnonzero(histories.training_lengths >= 2)
    owners = np.repeat(rows, histories.training_lengths[rows] - 1)
    read = np.concatenate([np.arange(1, n) for n in histories.training_lengths[rows]])
    lengths = np.minimum(read, LIMIT)
    starts = histories.offsets[owners] + read - lengths
    rng = np.random.default_rng(seed)
    # Whole pools, so that a part of an epoch is like the epoch.
    picked = rng.permutation(len(owners))[:count]
    if bucketed:
        batches = [picked[part] for part in BucketedBatches(lengths[picked], size, seed)]
    else:
        batches = [picked[start : start + size] for start in range(0, len(picked), size)]
    made = [
        (
            padded(histories, starts[part], lengths[part]),
            torch.from_numpy(lengths[part]),
            torch.from_numpy(histories.items[starts[part] + lengths[part]]),
        )
        for part in batches
    ]
    return Work(made, len(picked), int((lengths[picked] + INSTRUCTION + RESPONSE).sum()))


def multi_target(histories: Histories, size: int, count: int, seed: int) -> Work:
    """The samples of :func:`training`, those of a user in one row."""
    _, starts, lengths, targets = target_rows(histories, LIMIT, size)
    order = np.random.default_rng(seed).permutation(len(targets))
    picked = order[: np.searchsorted(np.cumsum(targets[order]), count) + 1]
    made, tokens = [], 0
    for part in BucketedBatches(lengths[picked], size, seed, targets[picked]):
        rows = picked[part]
        first = lengths[rows] - targets[rows]
        items = padded(histories, starts[rows], lengths[rows])
        made.append((items, torch.from_numpy(lengths[rows]), torch.from_numpy(first)))
        tokens += INSTRUCTION + int((lengths[rows] - 1 + targets[rows] * RESPONSE).sum())
    return Work(made, int(targets[picked].sum()), tokens)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return batch[0].to(device), batch[1].to(device), batch[2].to(device)


def apart(rows: Batch) -> Batch:
    """Rows of several targets as samples (history, next item)."""
    samples = [
        (items[:read], items[read])
        for items, length, first in zip(*rows, strict=True)
        for read in range(int(first), int(length))
    ]
    histories = torch.nn.utils.rnn.pad_sequence([one for one, _ in samples], batch_first=True)
    lengths = torch.tensor([len(one) for one, _ in samples])
    return histories, lengths, torch.stack([target for _, target in samples])
