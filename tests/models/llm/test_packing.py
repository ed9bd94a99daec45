from __future__ import annotations

import torch

from recbole_hellm.models.llm.packing import branch, lay_out, pack

CPU = torch.device("cpu")


def test_packing_keeps_every_sequence_whole_and_apart() -> None:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, 10, (40,), generator=generator).tolist()
    packing = pack(lengths, CPU, min_capacity=12)
    rows, capacity = packing.segments.shape
    assert capacity == 2 * max(lengths)
    assert rows <= -(-sum(lengths) // capacity) + 1  # the bins are nearly full
    tokens = torch.arange(1, sum(lengths) + 1)
    slots = packing.scatter(tokens)
    assert torch.equal(packing.gather(slots), tokens)
    assert slots.count_nonzero() == sum(lengths)
    start = 0
    for sequence, length in enumerate(lengths):
        where = packing.segments == sequence + 1
        assert where.any(1).sum() == 1
        assert torch.equal(slots[where], tokens[start : start + length])
        assert torch.equal(packing.positions[where], torch.arange(length))
        start += length


def test_visible_is_causal_within_a_sequence_and_blind_to_others() -> None:
    packing = pack([3, 2, 2], CPU, min_capacity=5)
    visible, (rows, capacity) = packing.visible, packing.segments.shape
    for row in range(rows):
        for t in range(capacity):
            for s in range(capacity):
                segment = packing.segments[row, t]
                expected = s <= t and segment > 0 and packing.segments[row, s] == segment
                assert bool(visible[row, t, s]) == bool(expected)


def test_branches_see_their_own_history_and_themselves() -> None:
    sizes, first, response = torch.tensor([3, 2]), torch.tensor([2, 1]), 2
    found = branch(sizes, first, response, CPU)
    # Tokens of the first sequence: items 1 2 3, responses behind 2 and 3; of the second: items
    # 1 2, responses behind 1 and 2.
    seen = [[1], [1, 2], [1, 2, 3], *([1, 2], [1, 2]), *([1, 2, 3], [1, 2, 3])]
    seen += [[1], [1, 2], *([1], [1]), *([1, 2], [1, 2])]
    start = [0] * 7 + [7] * 6
    own = [[], [], [], [3], [3, 4], [5], [5, 6], [], [], [9], [9, 10], [11], [11, 12]]
    slots = found.packing.index
    for token in range(13):
        keys = [start[token] + item - 1 for item in seen[token]] + own[token]
        row, column = divmod(int(slots[token]), found.visible.shape[1])
        expected = torch.zeros(found.visible.shape[1], dtype=torch.bool)
        for key in keys:
            other, place = divmod(int(slots[key]), found.visible.shape[1])
            assert other == row
            expected[place] = True
        assert torch.equal(found.visible[row, column], expected), token
    assert found.positions.tolist() == [0, 1, 2, 2, 3, 3, 4, 0, 1, 1, 2, 2, 3]
    assert found.read_slots.tolist() == [4, 6, 10, 12]
    assert found.item_mask.tolist() == [[True, True, True], [True, True, False]]
    assert [part.tolist() for part in found.targets] == [[0, 0, 1, 1], [2, 3, 1, 2]]


def test_without_a_response_targets_are_read_at_their_last_item() -> None:
    found = branch(torch.tensor([3]), torch.tensor([2]), 0, CPU)
    assert found.read_slots.tolist() == [1, 2]
    assert found.response_slots.shape == (2, 0)


def test_items_stand_behind_the_tokens_that_go_before_them() -> None:
    widths = torch.tensor([3, 1, 2, 1])
    layout = lay_out(torch.tensor([2, 1, 1]), widths)
    assert layout.slots.tolist() == [2, 3, 5, 6]
    assert layout.starts.tolist() == [0, 4, 6]
    assert layout.sizes.tolist() == [4, 2, 1]
    led = lay_out(torch.tensor([2, 1, 1]), widths, lead=1)
    assert led.slots.tolist() == [3, 4, 7, 9]
    assert led.starts.tolist() == [0, 5, 8]
    assert led.sizes.tolist() == [5, 3, 2]
    alone = lay_out(torch.tensor([2, 1]))
    assert (alone.slots.tolist(), alone.sizes.tolist()) == ([0, 1, 2], [2, 1])


def test_a_response_follows_its_history_with_what_goes_before_the_items() -> None:
    """One sequence: user, word, item, item; responses of one token after each item."""
    layout = lay_out(torch.tensor([2]), torch.tensor([2, 1]), lead=1)
    branches = branch(torch.tensor([2]), torch.tensor([1]), 1, CPU, layout)
    assert branches.item_slots.tolist() == [2, 3]
    assert branches.starts.tolist() == [0]
    assert branches.response_slots.tolist() == [[4], [5]]
    assert branches.positions.tolist() == [0, 1, 2, 3, 3, 4]
    visible = branches.visible[0, :6, :6].int().tolist()
    assert visible[2] == [1, 1, 1, 0, 0, 0]
    assert visible[4] == [1, 1, 1, 0, 1, 0]
    assert visible[5] == [1, 1, 1, 1, 0, 1]
