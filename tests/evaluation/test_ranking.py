from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.data.interactions.target_rows import TargetRows
from recbole_hellm.evaluation.rank_metrics import NDCG, RANK_METRICS, Recall
from recbole_hellm.evaluation.ranking import Ranks, count_above, mask_known


def gain(metric: str, place: int, k: int) -> float:
    """A metric of one relevant item at a 1-based place, written out."""
    if place > k:
        return 0.0
    if metric == "ndcg":
        return 1 / math.log2(place + 1)
    if metric in ("mrr", "map"):
        return 1 / place
    return 1 / k if metric == "precision" else 1.0


def known_items(history: list[int], masking: str, phase: str) -> set[int]:
    """What a user is known to have met, from the list of all interactions."""
    if masking == "none":
        return set()
    until = len(history) - (2 if masking == "train" or phase == "valid" else 1)
    return set(history[:until])


def expected_value(
    scores: list[float], target: int, hidden: set[int], metric: str, k: int
) -> float:
    """Mean of the metric over every order of the candidates that sorting by score allows."""
    candidates = [i for i in range(1, len(scores)) if i == target or i not in hidden]
    groups = [
        [i for i in candidates if scores[i] == value]
        for value in sorted({scores[i] for i in candidates}, reverse=True)
    ]
    total, count = 0.0, 0
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        ranking = [item for order in orders for item in order]
        total += gain(metric, ranking.index(target) + 1, k)
        count += 1
    return total / count


@pytest.fixture(scope="module")
def case() -> tuple[Histories, list[list[int]], torch.Tensor]:
    """6 users with repeated items, 7 items, scores of three values only, padding best of all."""
    rng = np.random.default_rng(0)
    histories = [
        [],
        *([int(i) for i in rng.integers(1, 8, length)] for length in (3, 4, 8, 5, 9, 3)),
    ]
    histories[1] = [2, 5, 2]  # the test item was met before
    histories[2] = [4, 4, 4, 1]  # one item many times
    users = np.repeat(np.arange(7), [len(history) for history in histories])
    items = np.array([item for history in histories for item in history])
    scores = torch.from_numpy(rng.integers(0, 3, (7, 8)).astype(np.float32))
    scores[:, 0] = 99
    scores[3] = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1.0])
    scores[4, 1:] = torch.tensor([-math.inf, 0, math.inf, 0, -math.inf, math.inf, 1])
    return Histories.from_pairs(users, items, 7), histories, scores


@pytest.mark.parametrize("phase", ["valid", "test"])
@pytest.mark.parametrize("masking", ["seen", "train", "none"])
def test_equals_the_mean_over_all_orders_of_tied_items(
    case: tuple[Histories, list[list[int]], torch.Tensor], masking: str, phase: str
) -> None:
    histories, lists, scores = case
    target_rows = TargetRows.of(histories, phase, "user")
    users = target_rows.users
    targets = torch.from_numpy(histories.targets(phase))
    pairs = target_rows.known(histories, np.arange(len(users)), masking)
    known = tuple(torch.from_numpy(part) for part in pairs)
    counts = count_above(scores[users], targets, [known])[0]  # type: ignore[list-item]
    ranks = Ranks(users, *(count.numpy() for count in counts))
    for row, user in enumerate(users):
        target = lists[user][-1 if phase == "test" else -2]
        hidden = known_items(lists[user], masking, phase) - {target}
        assert ranks.candidates[row] == 7 - len(hidden)
        for metric, k in itertools.product(RANK_METRICS, (1, 2, 3, 7)):
            wanted = expected_value(scores[user].tolist(), target, hidden, metric.name, k)
            assert metric.per_user(ranks, k)[row] == pytest.approx(wanted, abs=1e-12)


def test_counts_equal_an_argsort_on_distinct_scores() -> None:
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.permuted(np.tile(np.arange(51.0), (20, 1)), axis=1))
    targets = torch.from_numpy(rng.integers(1, 51, 20))
    rows = torch.from_numpy(rng.integers(0, 20, 300))
    items = torch.from_numpy(rng.integers(1, 51, 300))
    results = count_above(scores, targets, [(rows, items), (rows[:0], items[:0])])
    for (higher, tied, candidates), pairs in zip(
        results, ([*zip(rows.tolist(), items.tolist(), strict=True)], []), strict=True
    ):
        for row in range(20):
            hidden = {item for where, item in pairs if where == row} - {int(targets[row])}
            order = np.argsort(-scores[row].numpy(), kind="stable")
            ranking = [item for item in order if item != 0 and item not in hidden]
            assert int(higher[row]) == ranking.index(int(targets[row]))
            assert (int(tied[row]), int(candidates[row])) == (0, 50 - len(hidden))


def test_equal_scores_give_a_random_ranking() -> None:
    (counts,) = count_above(torch.zeros(3, 101), torch.tensor([1, 50, 100]), [(_none(), _none())])
    ranks = Ranks(np.arange(3), *(count.numpy() for count in counts))
    assert ranks.mean_rank.tolist() == [50.5] * 3
    assert Recall().per_user(ranks, 10).tolist() == pytest.approx([0.1] * 3)
    assert NDCG().per_user(ranks, 10)[0] == pytest.approx(
        sum(1 / math.log2(place + 1) for place in range(1, 11)) / 100
    )


@pytest.mark.parametrize("where", [3, 5])
def test_nan_is_an_error_for_targets_and_others(where: int) -> None:
    scores = torch.zeros(1, 8)
    scores[0, where] = math.nan
    with pytest.raises(FloatingPointError):
        count_above(scores, torch.tensor([3]), [(_none(), _none())])


def test_nan_in_padding_is_nothing() -> None:
    scores = torch.arange(8.0)[None].clone()
    scores[0, 0] = math.nan
    ((higher, tied, candidates),) = count_above(scores, torch.tensor([5]), [(_none(), _none())])
    assert (int(higher), int(tied), int(candidates)) == (2, 0, 7)


def test_masked_scores_keep_the_target() -> None:
    scores = torch.arange(10.0).view(2, 5)
    rows, items = torch.tensor([0, 0, 0, 1]), torch.tensor([2, 3, 3, 4])
    masked = mask_known(scores, torch.tensor([3, 1]), rows, items)
    inf = math.inf
    assert masked.tolist() == [[-inf, 1, -inf, 3, 4], [-inf, 6, 7, 8, -inf]]
    assert scores[0, 0] == 0  # the input is left alone


def _none() -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64)
