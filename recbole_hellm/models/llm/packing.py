"""Layout of tokens if several sequences share a row, and their visibility."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Packing:
    """Several sequences per row, to keep padding small.

    Attributes
    ----------
    index : Tensor
        [n], slot (row · capacity + column) of each token, sequence after sequence.
    segments : Tensor
        [R, C], 1 + the number of a slot's sequence; 0 for an empty slot.
    positions : Tensor
        [R, C], position of a slot's token within its sequence.
    """

    index: Tensor
    segments: Tensor
    positions: Tensor

    @property
    def visible(self) -> Tensor:
        """[R, C, C], True where slot t sees slot s: same sequence, s not after t."""
        same = self.segments.unsqueeze(2) == self.segments.unsqueeze(1)
        return same.tril() & (self.segments > 0).unsqueeze(1)

    def scatter(self, tokens: Tensor) -> Tensor:
        """Write tokens [n, ...] into their slots [R, C, ...]; zeros elsewhere."""
        slots = tokens.new_zeros(self.segments.numel(), *tokens.shape[1:])
        return slots.index_copy(0, self.index, tokens).unflatten(0, self.segments.shape)

    def gather(self, slots: Tensor) -> Tensor:
        """Read the tokens [n, ...] from their slots."""
        return slots.flatten(0, 1)[self.index]


MIN_CAPACITY = 32
"""Smallest capacity of a row, in tokens."""


def pack(lengths: list[int], device: torch.device, min_capacity: int = MIN_CAPACITY) -> Packing:
    """Pack sequences into rows by best fit, longest first.

    Parameters
    ----------
    lengths : list of int
        Length of each sequence, at least 1.
    device : torch.device
        Device of the result.
    min_capacity : int
        Smallest capacity of a row; capacities are multiples of the longest sequence.
    """
    longest = max(lengths)
    capacity = longest * -(-min_capacity // longest)
    rows_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    starts, n_rows = [0] * len(lengths), 0
    for sequence in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[sequence]
        room = next((r for r in range(length, capacity + 1) if rows_by_room[r]), 0)
        if room:
            row = rows_by_room[room].pop()
        else:
            row, room, n_rows = n_rows, capacity, n_rows + 1
        starts[sequence] = row * capacity + capacity - room
        rows_by_room[room - length].append(row)

    sequence_of, within = ragged(torch.tensor(lengths))
    index = torch.tensor(starts)[sequence_of] + within
    segments = torch.zeros(n_rows * capacity, dtype=torch.long).index_copy(
        0, index, sequence_of + 1
    )
    positions = torch.zeros(n_rows * capacity, dtype=torch.long).index_copy(0, index, within)
    shape = (n_rows, capacity)
    return Packing(
        index.to(device), segments.view(shape).to(device), positions.view(shape).to(device)
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """The tokens of histories, history after history: items with the tokens that go before them.

    Attributes
    ----------
    slots : Tensor
        [items], index of each item token among all tokens.
    starts : Tensor
        [B], index of the first token of each history.
    sizes : Tensor
        [B], tokens of each history.
    """

    slots: Tensor
    starts: Tensor
    sizes: Tensor


def lay_out(counts: Tensor, widths: Tensor | None = None, lead: int = 0) -> Layout:
    """Lay out the tokens of histories.

    Parameters
    ----------
    counts : Tensor
        [B] items of each history, at least 1.
    widths : Tensor, optional
        [items], tokens that each item takes up, of which its item token is the last; 1 by default.
    lead : int
        Tokens at the start of each history, before its first item's.
    """
    if widths is None:
        widths = counts.new_ones(int(counts.sum()))
    firsts = counts.cumsum(0) - counts
    widths = widths.index_add(0, firsts, torch.full_like(firsts, lead))
    ends = widths.cumsum(0)
    starts = (ends - widths)[firsts]
    return Layout(ends - 1, starts, ends[firsts + counts - 1] - starts)


@dataclasses.dataclass(frozen=True)
class Branches:
    """Sequences of items with a response segment that branches off after each target's history.

    Items see the items before them. A response sees the items up to its branching point, and
    itself. Each target is therefore read as if its history were alone.

    Attributes
    ----------
    packing : Packing
        Of all tokens, sequence after sequence; in each sequence the items, then the responses.
    item_mask : Tensor
        [B, T], True at items that are read.
    item_slots : Tensor
        [items], indices of the items among all tokens.
    starts : Tensor
        [B], index of the first token of each sequence.
    response_slots : Tensor
        [targets, R], indices of the responses' tokens.
    read_slots : Tensor
        [targets], index of the token at which a target is read: the last one of its response, or
        the last item of its history without responses.
    positions : Tensor
        [tokens], number of earlier tokens of the sequence that a token sees.
    visible : Tensor
        [rows, C, C], True where a slot sees another.
    targets : tuple of Tensor
        Row and column of each target in [B, T + 1] sequences.
    """

    packing: Packing
    item_mask: Tensor
    item_slots: Tensor
    starts: Tensor
    response_slots: Tensor
    read_slots: Tensor
    positions: Tensor
    visible: Tensor
    targets: tuple[Tensor, Tensor]


def branch(
    sizes: Tensor,
    first: Tensor,
    response: int,
    device: torch.device,
    layout: Layout | None = None,
) -> Branches:
    """Lay out the tokens of sequences in which each item from the `first`-th on has a target.

    Parameters
    ----------
    sizes : Tensor
        [B] on the CPU, number of items read of each sequence, without the last target.
    first : Tensor
        [B] on the CPU, number of items before the first target, from 1 to `sizes`.
    response : int
        R, number of tokens of a response.
    device : torch.device
        Device of the result.
    layout : Layout, optional
        Of the items and the tokens before them, on the CPU; by default there are items alone.
    """
    layout = layout or lay_out(sizes)
    counts = sizes - first + 1
    lengths = layout.sizes + response * counts
    packing = pack(lengths.tolist(), device)
    starts = lengths.cumsum(0) - lengths
    item_row, item_rank = ragged(sizes)
    row, rank = ragged(counts)
    item_slots = layout.slots + (starts - layout.starts)[item_row]
    read = first[row] + rank  # items before each target
    last_item = (sizes.cumsum(0) - sizes)[row] + read - 1
    base = starts[row] + layout.sizes[row] + rank * response
    response_slots = base.unsqueeze(1) + torch.arange(response)

    total = int(lengths.sum())
    # The tokens before an item have its time.
    token_row, token_rank = ragged(layout.sizes)
    item = torch.searchsorted(layout.slots, torch.arange(len(token_row)))
    tokens = starts[token_row] + token_rank
    time = torch.empty(total, dtype=torch.long).index_copy(0, tokens, item_rank[item] + 1)
    branches = torch.zeros(total, dtype=torch.long)
    positions = torch.empty(total, dtype=torch.long).index_copy(0, tokens, token_rank)
    time[response_slots] = read.unsqueeze(1)
    branches[response_slots] = torch.arange(1, len(row) + 1).unsqueeze(1)
    after = layout.slots[last_item] - layout.starts[row] + 1
    positions[response_slots] = after.unsqueeze(1) + torch.arange(response)

    times, owners = packing.scatter(time.to(device)), packing.scatter(branches.to(device))
    before = (owners == 0).unsqueeze(1) & (times.unsqueeze(1) <= times.unsqueeze(2))
    same_response = (owners.unsqueeze(1) == owners.unsqueeze(2)) & (owners > 0).unsqueeze(1)
    longest = torch.arange(int(sizes.max()))
    return Branches(
        packing,
        (longest < sizes.unsqueeze(1)).to(device),
        item_slots.to(device),
        starts.to(device),
        response_slots.to(device),
        (base + response - 1 if response else item_slots[last_item]).to(device),
        positions.to(device),
        packing.visible & (before | same_response),
        (row.to(device), read.to(device)),
    )


def ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Row, and index within the row, of each element of rows with `counts` elements."""
    device = counts.device
    rows = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
    return rows, torch.arange(len(rows), device=device) - (counts.cumsum(0) - counts)[rows]
