from __future__ import annotations

import pytest
import torch

from recbole_hellm.models.llm.pooling import SecondOrderPooling


def literal(rows: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Eq. 9, item by item."""
    size = rows.shape[-1] if weight is None else len(weight)
    total = torch.zeros(size, size, dtype=rows.dtype)
    for row in rows:
        projected = row if weight is None else weight @ row
        total += torch.outer(projected, projected)
    return total.flatten()


def batch() -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64)
    lengths = [5, 2, 3]
    return embeddings, torch.arange(5) < torch.tensor(lengths)[:, None], lengths


def test_pooling_is_the_sum_of_outer_products_of_real_items() -> None:
    embeddings, mask, lengths = batch()
    for size in (4, None):
        pooling = SecondOrderPooling(6, size).double()
        weight = None if pooling.bilinear is None else pooling.bilinear.weight
        pooled = pooling(embeddings, mask)
        assert pooled.shape == (3, pooling.size)
        for row, (items, length) in enumerate(zip(embeddings, lengths, strict=True)):
            torch.testing.assert_close(pooled[row], literal(items[:length], weight))


def test_padding_leaves_no_trace_unless_the_bug_is_asked_for() -> None:
    embeddings, mask, _ = batch()
    other = torch.where(mask[..., None], embeddings, 7.0)
    sound, bug = SecondOrderPooling(6, None), SecondOrderPooling(6, None, pad_bug=True)
    pad = torch.ones(6, dtype=torch.float64)
    assert torch.equal(sound(embeddings, mask, pad), sound(other, mask, pad))
    # The released code: the true Gram matrix plus one outer product of item 0 per padded slot.
    padded = (~mask).sum(1, keepdim=True)
    expected = sound(embeddings, mask) + padded * torch.outer(pad, pad).flatten()
    torch.testing.assert_close(bug(embeddings, mask, pad), expected)
    assert not torch.allclose(bug(embeddings, mask, pad), sound(embeddings, mask))
    bug.eval()
    torch.testing.assert_close(bug(embeddings, mask, pad), sound(embeddings, mask))


@pytest.mark.parametrize("size", [4, None])
def test_running_pooling_equals_pooling_every_prefix(size: int | None) -> None:
    embeddings, mask, lengths = batch()
    pooling = SecondOrderPooling(6, size).double()
    visible = torch.ones(5, 5, dtype=torch.bool).tril() & mask[:, None]
    identity = torch.eye(pooling.size, dtype=torch.float64)
    running, square_norm = pooling.running(embeddings, visible, identity)
    weight = torch.randn(7, pooling.size, dtype=torch.float64)
    mapped, _ = pooling.running(embeddings, visible, weight)
    torch.testing.assert_close(running.square().sum(-1), square_norm)
    for t in range(5):
        until_t = pooling(embeddings[:, : t + 1], mask[:, : t + 1])
        for row, length in enumerate(lengths):
            if t < length:
                # The map sees a symmetric matrix, so the identity gives its symmetric part: all.
                torch.testing.assert_close(mapped[row, t], weight @ until_t[row])
                torch.testing.assert_close(running[row, t], until_t[row])


def test_bilinear_map_receives_gradients() -> None:
    embeddings, mask, _ = batch()
    pooling = SecondOrderPooling(6, 4).double()
    pooling(embeddings, mask).square().sum().backward()
    assert pooling.bilinear is not None
    assert pooling.bilinear.weight.grad is not None
    assert pooling.bilinear.weight.grad.abs().sum() > 0
