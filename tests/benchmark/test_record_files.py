from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.benchmark.methods import methods
from recbole_hellm.benchmark.record_files import Record, RecordDirectory
from recbole_hellm.benchmark.records import read_records
from recbole_hellm.errors import RunError

FILES = [
    "config.yaml",
    "environment.json",
    "identity.json",
    "lists.json",
    "metrics.json",
    "ranks.parquet",
    "slices.csv",
    "values.parquet",
]


@pytest.fixture
def old(make_kept: Callable[..., Record], good: list[int]) -> Record:
    """A record without checksums, as earlier versions wrote it."""
    kept = make_kept("A", good)
    (kept.path / "lists.json").write_text('{"novelty@10": 8.5, "diversity@10": 1}')
    frame = pd.DataFrame({"seen.hits@10": [0.5] * len(good)})
    frame.to_parquet(kept.path / "values.parquet", index=False)
    return kept


@pytest.fixture
def kept(old: Record) -> Record:
    directory = RecordDirectory(old.path)
    directory.write_record(directory.read_record())
    return read(old)[0]


def read(record: Record) -> list[Record]:
    return list(read_records(record.path.parents[2], "tiny").values())


def said(record: Record) -> str | None:
    """All that tables show of a record; None where there is none."""
    found = read(record)
    if not found:
        return None
    (run,) = found
    (method,) = methods({"A": [run]})
    figures = {m: method.per_user("ndcg@10", m).tolist() for m in ("seen", "train", "none")}
    values = {key: of.tolist() for key, of in run.user_values.items()}
    costs = [method.cost(key, of) for key in run.record["cost"] for of in ("cost", "other")]
    shown = (figures, values, costs, run.lists(), run.hardware, run.settings, run.detailed)
    slices = run.slices().to_csv() if run.detailed else ""
    plain = json.dumps(run.record, sort_keys=True)
    return f"{shown}\n{plain}\n{slices}"


def damages(content: bytes, other: bytes, seed: str) -> list[bytes | None]:
    draw = random.Random(seed)  # noqa: S311
    damaged: list[bytes | None] = [None, b"", b"\0" * len(content), other, b"[" * 50_000, b"\xff"]
    damaged += [content[: len(content) * part // 5] for part in range(1, 5)]
    for _ in range(12):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(changed))
    return damaged


@pytest.mark.parametrize("name", FILES)
def test_damage_is_told_or_changes_nothing(
    kept: Record, make_kept: Callable[..., Record], poor: list[int], name: str, caplog: Any
) -> None:
    path, expected = kept.path / name, said(kept)
    content = path.read_bytes()
    other = make_kept("B", poor).path / name
    swapped = other.read_bytes() if other.exists() else b"{}"
    shutil.rmtree(other.parent)
    told = 0
    for damaged in damages(content, swapped, name):
        path.write_bytes(damaged) if damaged is not None else path.unlink()
        caplog.clear()
        try:
            found = said(kept)
        except RunError as error:
            assert str(kept.path) in str(error)  # noqa: PT017
            assert " out" in str(error)  # noqa: PT017
            told += 1
        else:
            assert found == expected or "left out" in caplog.text
    assert told >= 15


@pytest.mark.parametrize("name", FILES)
def test_damage_of_old_records_ends_in_a_sentence_at_worst(old: Record, name: str) -> None:
    path = old.path / name
    content = path.read_bytes()
    for damaged in damages(content, b"{}", name):
        path.write_bytes(damaged) if damaged is not None else path.unlink()
        try:
            said(old)
        except RunError as error:
            assert str(old.path) in str(error)  # noqa: PT017


def test_keys_of_another_type_are_told(old: Record) -> None:
    path = old.path / "metrics.json"
    content = json.loads(path.read_text())
    for key in (*content, "test.seen", "valid.seen", "cost.train_seconds"):
        for value in (None, "x", [], {}, [[1]], {"a": {"b": []}}, 1.5, True, "missing"):
            changed = json.loads(json.dumps(content))
            *outer, last = key.split(".")
            place = changed
            for part in outer:
                place = place[part]
            place[last] = value
            if value == "missing":
                del place[last]
            path.write_text(json.dumps(changed))
            try:
                said(old)
            except RunError as error:
                assert str(old.path) in str(error)  # noqa: PT017


def test_old_records_are_read_as_they_are(old: Record) -> None:
    expected = said(old)
    directory = RecordDirectory(old.path)
    directory.write_record(directory.read_record())
    assert said(old) == expected
    assert read(old)[0].lists() == {"novelty@10": 8.5, "diversity@10": 1}


def test_a_record_in_another_place_is_told(kept: Record) -> None:
    moved = kept.path.parents[2] / "other/A" / kept.path.name
    shutil.copytree(kept.path, moved)
    with pytest.raises(RunError, match=r"holds a record of A on tiny; move it to .*/tiny/A\.$"):
        read_records(kept.path.parents[2], "other")


def test_a_metric_that_was_not_measured_is_told(kept: Record) -> None:
    assert kept.metric("ndcg@10", "seen") == kept.metrics("seen")["ndcg@10"]
    with pytest.raises(RunError, match="no test metric hit@3 under mask_history=seen"):
        kept.metric("hit@3", "seen")
    with pytest.raises(RunError, match="no valid metrics under mask_history=none"):
        kept.metric("ndcg@10", "none", "valid")
