from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.data.interactions.splits import (
    candidate_fingerprint,
    canonical_order,
    leave_one_out_targets,
    split_fingerprint,
    tied_test_users,
    tied_validation_users,
    token_order,
)
from recbole_hellm.errors import DataError


def random_frame(seed: int, rows: int = 400, days: int = 6) -> pd.DataFrame:
    """Many ties, tokens whose string order differs from their numeric order."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "u": [f"{number}" for number in rng.integers(1, 120, rows)],
            "i": [f"i{number}é" for number in rng.integers(1, 30, rows)],
            "t": rng.integers(0, days, rows) * 86_400,
            "tag": np.arange(rows),
        }
    )


def reference_rows(frame: pd.DataFrame, by_time: bool = True) -> list[tuple[str, str, int, int]]:
    """Sort with Python tuples, the row number last, and count within users one by one."""
    rows = list(zip(frame["u"], frame["i"], frame["t"], frame["tag"], strict=True))
    if by_time:
        order = sorted(range(len(rows)), key=lambda r: (rows[r][0], rows[r][2], rows[r][1], r))
    else:
        order = sorted(range(len(rows)), key=lambda r: (rows[r][0], r))
    count: dict[str, int] = {}
    result = []
    for row in order:
        user, item, _, tag = rows[row]
        result.append((user, item, int(tag), count.get(user, 0)))
        count[user] = count.get(user, 0) + 1
    return result


def as_rows(ordered: pd.DataFrame) -> list[tuple[str, str, int, int]]:
    columns = [ordered[name].tolist() for name in ("u", "i", "tag", "position")]
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("by_time", [True, False])
def test_order_equals_a_sort_of_tuples(seed: int, by_time: bool) -> None:
    frame = random_frame(seed)
    ordered = canonical_order(frame, "u", "i", "t" if by_time else None)
    assert as_rows(ordered) == reference_rows(frame, by_time)
    assert ordered.index.tolist() == list(range(len(frame)))
    assert ordered["position"].dtype.kind == "i"


def test_order_does_not_touch_its_input() -> None:
    frame = random_frame(0)
    before = frame.copy(deep=True)
    canonical_order(frame, "u", "i", "t")
    pd.testing.assert_frame_equal(frame, before)


def test_order_overwrites_a_stale_position() -> None:
    frame = random_frame(1).assign(position=-7.5)
    assert as_rows(canonical_order(frame, "u", "i", "t")) == reference_rows(frame)


def test_order_is_the_same_for_any_row_order() -> None:
    frame = random_frame(2).drop_duplicates(["u", "i", "t"])
    expected = canonical_order(frame, "u", "i", "t")
    shuffled = canonical_order(frame.sample(frac=1, random_state=1), "u", "i", "t")
    pd.testing.assert_frame_equal(shuffled, expected)


def test_tokens_are_compared_as_strings_by_code_point() -> None:
    frame = pd.DataFrame({"u": [1] * 6, "i": [10, 9, 2, 100, 30, 1], "t": [0] * 6})
    assert canonical_order(frame, "u", "i", "t")["i"].tolist() == ["1", "10", "100", "2", "30", "9"]
    # U+FF5E sorts before U+1F600 by code point, after it in UTF-16.
    frame = pd.DataFrame({"u": ["a"] * 4, "i": ["\U0001f600", "\uff5e", "a", "B"], "t": [0] * 4})
    ordered = canonical_order(frame, "u", "i", "t")
    assert ordered["i"].tolist() == ["B", "a", "\uff5e", "\U0001f600"]


def test_times_keep_their_resolution() -> None:
    base = 2**60  # float64 would see one time
    frame = pd.DataFrame({"u": ["a"] * 3, "i": ["x", "y", "z"], "t": [base + 2, base + 1, base]})
    assert canonical_order(frame, "u", "i", "t")["i"].tolist() == ["z", "y", "x"]
    assert tied_test_users(frame, "u", "t") == 0
    frame["t"] = [1.3e9 + 20, 1.3e9 + 10, 1.3e9]  # float32 would see one time
    assert canonical_order(frame, "u", "i", "t")["i"].tolist() == ["z", "y", "x"]


def test_order_of_nothing() -> None:
    frame = pd.DataFrame({"u": [], "i": [], "t": []})
    assert canonical_order(frame, "u", "i", "t")["position"].tolist() == []
    assert tied_test_users(frame, "u", "t") == 0
    assert len(leave_one_out_targets(frame, "u", "i")) == 0


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("t", [1.0, None, 3.0], "'t'.*row 1"),
        ("t", ["1", "soon", "3"], "'t'.*numbers"),
        ("u", ["a", "b", None], "'u'.*row 2"),
        ("i", [None, "x", "y"], "'i'.*row 0"),
    ],
)
def test_bad_columns_are_named(column: str, value: list[object], message: str) -> None:
    frame = pd.DataFrame({"u": ["a", "b", "c"], "i": ["x", "y", "z"], "t": [1, 2, 3]})
    frame[column] = value
    with pytest.raises(DataError, match=message):
        canonical_order(frame, "u", "i", "t")


def test_absent_column_is_named() -> None:
    with pytest.raises(DataError, match=r"no column 'when'.*u, i, t"):
        canonical_order(pd.DataFrame({"u": ["a"], "i": ["b"], "t": [1]}), "u", "i", "when")


def test_tied_users_by_hand() -> None:
    times = {"a": [1, 5, 5], "b": [5, 5, 6], "c": [7], "d": [3, 3], "e": [2, 9, 2, 9]}
    frame = pd.DataFrame([(u, t) for u, ts in times.items() for t in ts], columns=["u", "t"])
    assert tied_test_users(frame.sample(frac=1, random_state=0), "u", "t") == 3  # a, d, e


@pytest.mark.parametrize("seed", range(3))
def test_tied_users_equal_a_loop(seed: int) -> None:
    frame = random_frame(seed)
    expected = 0
    for user in set(frame["u"]):
        times = sorted(frame["t"][frame["u"] == user])
        expected += len(times) >= 2 and times[-1] == times[-2]
    assert 0 < expected < frame["u"].nunique()
    assert tied_test_users(frame, "u", "t") == expected


def test_targets_equal_a_loop() -> None:
    ordered = canonical_order(random_frame(3), "u", "i", "t")
    histories: dict[str, list[str]] = {}
    for user, item in zip(ordered["u"], ordered["i"], strict=True):
        histories.setdefault(user, []).append(item)
    expected = [(u, h[-2], h[-1]) for u, h in sorted(histories.items()) if len(h) >= 3]
    assert 0 < len(expected) < len(histories)
    targets = leave_one_out_targets(ordered, "u", "i")
    assert list(targets.columns) == ["user", "valid", "test"]
    assert list(targets.itertuples(index=False, name=None)) == expected
    # Users need not be contiguous: only the order within a user counts.
    mixed = ordered.sort_values("position", kind="stable")
    pd.testing.assert_frame_equal(leave_one_out_targets(mixed, "u", "i"), targets)


def test_split_fingerprint_is_the_documented_hash() -> None:
    expected = hashlib.sha256("a\tv1\tt1\nb\tv2\ttü\n".encode()).hexdigest()
    assert split_fingerprint(["b", "a"], ["v2", "v1"], ["tü", "t1"]) == expected
    assert split_fingerprint(["a", "b"], ["v1", "v2"], ["t1", "tü"]) == expected
    assert split_fingerprint(["a", "b"], ["v2", "v1"], ["t1", "tü"]) != expected
    assert split_fingerprint(["a", "b"], ["t1", "v2"], ["v1", "tü"]) != expected
    assert split_fingerprint(["a"], ["v1"], ["t1"]) != expected


def test_split_fingerprint_needs_equal_lengths() -> None:
    with pytest.raises(DataError, match="2 users with 1 validation"):
        split_fingerprint(["a", "b"], ["v"], ["t", "t"])


def test_candidate_fingerprint_is_a_hash_of_the_set() -> None:
    expected = hashlib.sha256(b"a\nb\n").hexdigest()
    assert candidate_fingerprint(["b", "a"]) == expected
    assert candidate_fingerprint(np.array(["a", "b", "a"])) == expected
    assert candidate_fingerprint(["a", "c"]) != expected
    assert candidate_fingerprint(["ab"]) != expected


@pytest.mark.parametrize("seed", range(4))
def test_tied_validation_equals_what_other_orders_of_ties_could_choose(seed: int) -> None:
    frame = random_frame(seed, rows=500, days=12)
    expected = 0
    for _, rows in frame.groupby("u"):
        times = sorted(rows["t"].tolist())
        if len(times) >= 3:
            # The item is fixed if no other row has the second last time.
            expected += times.count(times[-2]) > 1
    assert 0 < expected < frame["u"].nunique()
    assert tied_validation_users(frame, "u", "t") == expected


def test_tied_validation_by_hand() -> None:
    times = {"a": [1, 2, 2], "b": [1, 1, 2], "c": [1, 2, 3], "d": [1, 1], "e": [1, 1, 2, 3]}
    rows = [(user, time) for user, whole in times.items() for time in whole]
    frame = pd.DataFrame(rows, columns=["u", "t"])
    assert tied_validation_users(frame, "u", "t") == 2  # a and b; d has no validation item
    assert tied_validation_users(frame.iloc[:0], "u", "t") == 0


def test_token_order_is_that_of_the_fingerprint() -> None:
    tokens = ["b", "10", "\U0001f600", "9", "\uff5e", "B", "a"]
    for given in (tokens, np.array(tokens), np.array(tokens, dtype=object)):
        assert [tokens[row] for row in token_order(given)] == sorted(tokens)
    assert token_order([]).tolist() == []
