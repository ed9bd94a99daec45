"""Sampled candidates: what is drawn, for whom, and how targets are ranked among them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.evaluation.sampling import SampledCandidates, count_among

N_USERS, N_ITEMS = 30, 400


@pytest.fixture(scope="module")
def histories() -> Histories:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1, N_USERS + 1), 8)
    return Histories.from_pairs(users, rng.integers(1, N_ITEMS + 1, len(users)), N_USERS + 1)


def counts(histories: Histories) -> np.ndarray:
    return np.bincount(histories.items, minlength=N_ITEMS + 1)


def names(kind: str, count: int) -> list[str]:
    return [f"{kind}{number:03d}" for number in range(1, count + 1)]


def sampled(histories: Histories, kind: str = "uniform-100", seed: int = 1) -> SampledCandidates:
    tokens = names("u", N_USERS), names("i", N_ITEMS)
    return SampledCandidates(kind, seed, histories, counts(histories), *tokens)


@pytest.mark.parametrize("kind", ["uniform-100", "popularity-100"])
def test_what_is_drawn_is_new_to_the_user_and_different(histories: Histories, kind: str) -> None:
    users = np.arange(1, N_USERS + 1)
    drawn = sampled(histories, kind).draw(users)
    assert drawn.shape == (N_USERS, 100)
    for user, items in zip(users, drawn.tolist(), strict=True):
        known = histories.items[histories.offsets[user] : histories.offsets[user + 1]]
        assert len(set(items) - {0}) == sum(item > 0 for item in items)
        assert not set(items) & set(known.tolist())
        if kind == "uniform-100":
            assert min(items) >= 1
    assert not (sampled(histories, kind, 2).draw(users) == drawn).all(axis=1).any()


def test_a_user_is_given_the_same_whoever_else_there_is_and_whatever_the_ids_are(
    histories: Histories,
) -> None:
    candidates = sampled(histories)
    together = candidates.draw(np.array([3, 7, 7, 9]))
    assert (together[1] == together[2]).all()
    assert (candidates.draw(np.array([7]))[0] == together[1]).all()
    order = np.random.default_rng(5).permutation(N_ITEMS)  # new id of item i is order[i - 1] + 1
    moved = Histories(histories.offsets, order[histories.items - 1] + 1, histories.bounds)
    tokens = np.empty(N_ITEMS, dtype=object)
    tokens[order] = names("i", N_ITEMS)
    for kind in ("uniform-100", "popularity-100"):
        other = SampledCandidates(kind, 1, moved, counts(moved), names("u", N_USERS), list(tokens))
        here = sampled(histories, kind).draw(np.array([7]))[0]
        there = other.draw(np.array([7]))[0]
        assert [tokens[i - 1] for i in there if i] == [f"i{i:03d}" for i in here if i]


def test_popular_items_are_drawn_as_often_as_they_are_popular() -> None:
    """One of three items with 1, 2 and 7 training interactions; item 4 has none."""
    lists = [[], *([] for _ in range(4000))]
    users = np.arange(1, 4001)
    empty = Histories.from_pairs(np.array([1]), np.array([4]), len(lists))
    weights = np.array([0, 1, 2, 7, 0])
    tokens = [f"u{user}" for user in users]
    candidates = SampledCandidates("popularity-1", 0, empty, weights, tokens, list("abcd"))
    drawn = np.bincount(candidates.draw(users[1:]).ravel(), minlength=5) / 3999
    assert drawn == pytest.approx([0, 0.1, 0.2, 0.7, 0], abs=0.02)
    uniform = SampledCandidates("uniform-1", 0, empty, weights, tokens, list("abcd"))
    drawn = np.bincount(uniform.draw(users[1:]).ravel(), minlength=5) / 3999
    assert drawn == pytest.approx([0, 0.25, 0.25, 0.25, 0.25], abs=0.02)


@pytest.mark.parametrize("kind", ["uniform-100", "popularity-100"])
def test_users_with_few_items_left_are_given_these(kind: str) -> None:
    """Of four items, user 1 knows two; popularity never draws item 4, which nobody took."""
    histories = Histories.from_pairs(np.array([1, 1, 2]), np.array([1, 2, 3]), 3)
    weights = np.array([0, 1, 1, 1, 0])
    drawn = SampledCandidates(kind, 0, histories, weights, ["a", "b"], list("wxyz")).draw(
        np.array([1])
    )
    wanted = {3, 4} if kind == "uniform-100" else {3}
    assert set(drawn[0].tolist()) == wanted | {0}
    assert (drawn[0] > 0).sum() == len(wanted)


@pytest.mark.parametrize("most", [1, 3])
def test_targets_are_ranked_among_the_sampled_and_each_other(most: int) -> None:
    rng = np.random.default_rng(3)
    scores = torch.from_numpy(rng.integers(0, 4, (12, 31)).astype(np.float32))
    scores[:, 0] = math.nan  # padding may hold anything
    scores[5, 1:] = -math.inf
    targets, drawn = [], np.zeros((12, 8), dtype=np.int64)
    for row in range(12):
        order = rng.permutation(30) + 1
        targets.append(order[: rng.integers(1, most + 1)].tolist())
        count = rng.integers(0, 9)
        drawn[row, :count] = order[most : most + count]
    owners = torch.tensor([row for row, items in enumerate(targets) for _ in items])
    flat = torch.tensor([item for items in targets for item in items])
    found = count_among(scores, flat, owners, torch.from_numpy(drawn))
    for number, (row, target) in enumerate(zip(owners.tolist(), flat.tolist(), strict=True)):
        others = [*(set(targets[row]) - {target}), *drawn[row][drawn[row] > 0].tolist()]
        score, rest = scores[row, target], scores[row, others]
        wanted = [int((rest > score).sum()), int((rest == score).sum()), len(others) + 1]
        assert [int(count[number]) for count in found] == wanted


def test_nan_is_an_error() -> None:
    scores = torch.zeros(1, 5)
    scores[0, 3] = math.nan
    one = torch.tensor([1]), torch.tensor([0])
    with pytest.raises(FloatingPointError):
        count_among(scores, *one, torch.tensor([[2, 3]]))
    assert int(count_among(scores, *one, torch.tensor([[2, 4]]))[1]) == 2
