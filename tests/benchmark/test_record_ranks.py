from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.benchmark.record_ranks import (
    CLIP,
    compress_ranks,
    in_token_order,
    read_record_ranks,
    read_run_ranks,
    write_record_ranks,
)
from recbole_hellm.errors import DataError, RunError
from recbole_hellm.evaluation.rank_metrics import RANK_METRICS
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.runs.directory import RunDirectory

MASKINGS = ("seen", "train", "none")


def random_ranks(seed: int, users: int = 400) -> Ranks:
    """Ranks around the clip, and ties beyond what 8 or 16 bits hold."""
    rng = np.random.default_rng(seed)
    higher = rng.choice([0, 1, 5, 19, 20, 254, 255, 256, 300, 100_000], users)
    tied = rng.choice([0, 0, 0, 1, 3, 255, 256, 70_000], users)
    return Ranks(np.arange(1, users + 1), higher, tied, np.full(users, 200_000))


@pytest.fixture
def ranks() -> dict[str, Ranks]:
    return {masking: random_ranks(seed) for seed, masking in enumerate(MASKINGS)}


@pytest.fixture
def tokens() -> list[str]:
    return [f"U{number}" for number in np.random.default_rng(9).permutation(400)]


def write_run(folder: Path, ranks: dict[str, Ranks], tokens: list[str]) -> None:
    for masking, found in ranks.items():
        columns = {name: getattr(found, name) for name in ("higher", "tied", "candidates")}
        frame = pd.DataFrame({"user": tokens, "item": "i1", **columns})
        RunDirectory(folder).write_table(f"ranks-{masking}.parquet", frame)


def assert_same(found: dict[str, Ranks], wanted: dict[str, Ranks]) -> None:
    assert sorted(found) == sorted(wanted)
    for masking, ranks in wanted.items():
        for name in ("users", "higher", "tied", "candidates"):
            np.testing.assert_array_equal(getattr(found[masking], name), getattr(ranks, name))


def test_metrics_of_kept_ranks_are_exact(
    ranks: dict[str, Ranks], tokens: list[str], tmp_path: Path
) -> None:
    write_record_ranks(tmp_path / "ranks.parquet", compress_ranks(in_token_order(ranks, tokens)))
    kept = read_record_ranks(tmp_path / "ranks.parquet")
    assert tuple(kept) == MASKINGS
    order = sorted(range(400), key=lambda row: tokens[row])
    for masking in MASKINGS:
        for metric in RANK_METRICS:
            for k in (1, 2, 10, 20, CLIP):
                wanted = metric.per_user(ranks[masking], k)[order]
                assert (metric.per_user(kept[masking], k) == wanted).all()
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.parquet"]


def test_what_is_not_kept(tmp_path: Path) -> None:
    ranks = Ranks(
        *(np.array(values) for values in ([1, 2], [900, 254], [7, 70_000], [999, 99_999]))
    )
    write_record_ranks(tmp_path / "a" / "r.parquet", compress_ranks({"none": ranks}))
    kept = read_record_ranks(tmp_path / "a" / "r.parquet")["none"]
    assert kept.higher.tolist() == [255, 254]
    assert kept.tied.tolist() == [0, 70_000]
    assert kept.candidates.tolist() == [0, 0]


def test_runs_with_other_ids_agree(ranks: dict[str, Ranks], tokens: list[str]) -> None:
    order = np.random.default_rng(1).permutation(400)
    moved = {
        masking: Ranks(
            np.arange(1, 401), found.higher[order], found.tied[order], found.candidates[order]
        )
        for masking, found in ranks.items()
    }
    renamed = np.array(tokens, dtype=object)[order]
    assert_same(in_token_order(moved, renamed), in_token_order(ranks, tokens))
    pd.testing.assert_frame_equal(
        compress_ranks(in_token_order(moved, renamed)),
        compress_ranks(in_token_order(ranks, tokens)),
    )


def test_a_run_directory_is_read_in_token_order(
    ranks: dict[str, Ranks], tokens: list[str], tmp_path: Path
) -> None:
    write_run(tmp_path, ranks, tokens)
    found = read_run_ranks(tmp_path)
    assert_same(found, in_token_order(ranks, tokens))
    assert found["seen"].users.tolist() == list(range(400))
    wanted = compress_ranks(in_token_order(ranks, tokens))
    pd.testing.assert_frame_equal(compress_ranks(found)[[*wanted]], wanted)


def test_nothing_names_users_or_items(
    ranks: dict[str, Ranks], tokens: list[str], tmp_path: Path
) -> None:
    frame = compress_ranks(in_token_order(ranks, tokens))
    assert {str(kind) for kind in frame.dtypes} == {"uint8", "uint32"}
    assert list(frame)[:2] == ["seen.higher", "seen.tied"]
    write_record_ranks(tmp_path / "ranks.parquet", frame)
    content = (tmp_path / "ranks.parquet").read_bytes()
    assert not any(token.encode() in content for token in tokens if len(token) > 3)


def test_files_are_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    higher = np.exp(rng.normal(6.5, 2.3, 22_363)).astype(np.int64)  # half are above 600
    ranks = Ranks(np.arange(22_363), higher, np.zeros_like(higher), higher + 9)
    write_record_ranks(tmp_path / "r.parquet", compress_ranks({"seen": ranks}))
    assert (tmp_path / "r.parquet").stat().st_size < 30_000


def test_mistakes(ranks: dict[str, Ranks], tokens: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 user tokens do not fit 400 ranks under seen"):
        in_token_order(ranks, ["a", "b", "c"])
    with pytest.raises(RunError, match="no per-user ranks"):
        read_run_ranks(tmp_path)
    write_run(tmp_path, {"seen": ranks["seen"]}, tokens)
    write_run(tmp_path, {"none": ranks["none"]}, tokens[::-1])
    with pytest.raises(RunError, match="different users"):
        read_run_ranks(tmp_path)
    with pytest.raises(RunError, match="is missing"):
        read_record_ranks(tmp_path / "absent.parquet")
    (tmp_path / "ranks-seen.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(RunError, match=r"ranks-seen\.parquet is damaged"):
        read_run_ranks(tmp_path)
    for frame in (pd.DataFrame({"seen.higher": [1]}), pd.DataFrame({"a": [1]}), pd.DataFrame()):
        RunDirectory(tmp_path).write_table("other.parquet", frame)
        with pytest.raises(RunError, match="holds no kept ranks"):
            read_record_ranks(tmp_path / "other.parquet")


def several_ranks(seed: int) -> tuple[Ranks, list[str]]:
    """Up to five targets a row and three rows a user, in order of ids; and the users' tokens."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(120), rng.integers(1, 6, 120))
    users = np.sort(rng.integers(1, 41, 120))[rows]
    higher = rng.choice([0, 1, 5, 19, 255, 256, 300], len(rows))
    ranks = Ranks(users, higher, rng.integers(0, 4, len(rows)), np.full(len(rows), 999), rows)
    names = [f"U{number}" for number in rng.permutation(41)]
    return ranks, [names[user] for user in users]


def test_several_targets_are_kept_by_user(tmp_path: Path) -> None:
    ranks, tokens = several_ranks(0)
    assert ranks.rows is not None
    columns = {name: getattr(ranks, name) for name in ("higher", "tied", "candidates")}
    frame = pd.DataFrame({"user": tokens, "row": ranks.rows, "item": "i", **columns})
    for masking in MASKINGS:
        RunDirectory(tmp_path).write_table(f"ranks-{masking}.parquet", frame)
    found = read_run_ranks(tmp_path)
    write_record_ranks(tmp_path / "kept.parquet", compress_ranks(found))
    kept = read_record_ranks(tmp_path / "kept.parquet")
    names = dict(zip(ranks.users.tolist(), tokens, strict=True))
    order = np.argsort([names[user] for user in ranks.user_ids.tolist()])
    for metric in RANK_METRICS:
        for k in (1, 5, 20, CLIP):
            wanted = metric.of_users(ranks, k)[order]
            assert metric.of_users(found["seen"], k) == pytest.approx(wanted, abs=1e-12)
            assert metric.of_users(kept["none"], k) == pytest.approx(wanted, abs=1e-12)
    assert kept["seen"].user_ids.tolist() == [*range(len(order))]
    assert {*pd.read_parquet(tmp_path / "kept.parquet").dtypes.map(str)} == {"uint8", "uint32"}


def test_damaged_rows_are_told(tmp_path: Path) -> None:
    ranks, tokens = several_ranks(1)
    frame = compress_ranks(in_token_order({"seen": ranks}, tokens))
    for damaged, message in (
        (frame.iloc[::-1], "'user' is not in order"),
        (frame.drop(columns="row"), "holds no kept ranks"),
        (frame.astype({"row": float}), "'row' is no count"),
    ):
        RunDirectory(tmp_path).write_table("kept.parquet", damaged)
        with pytest.raises(RunError, match=message):
            read_record_ranks(tmp_path / "kept.parquet")
