from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm import run
from recbole_hellm.benchmark import records
from recbole_hellm.benchmark.methods import methods
from recbole_hellm.benchmark.record_files import RecordDirectory
from recbole_hellm.benchmark.records import SLICED, Record, read_records, write_record
from recbole_hellm.benchmark.users import TestUsers
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.errors import RunError, StorageError
from recbole_hellm.evaluation.metric import UserListMetric
from recbole_hellm.evaluation.metrics import BUILT_IN, MetricSet
from recbole_hellm.evaluation.rank_metrics import Recall
from recbole_hellm.evaluation.recommended import RecommendedLists
from recbole_hellm.runs.identity import portable, recipe
from recbole_hellm.runs.results import RunResult
from recbole_hellm.storage.checksums import content_hash
from recbole_hellm.storage.locks import locked


@pytest.fixture
def train(quick: dict[str, Any]) -> Callable[..., RunResult]:
    return lambda model, **options: run(model, "tiny", **quick | {"save_topk": 12} | options)


@pytest.fixture
def test_users(quick: dict[str, Any]) -> TestUsers:
    return TestUsers.open(HellmConfig("BPR", "tiny", quick))


def test_a_record_holds_what_was_run_and_what_came_of_it(
    train: Callable[..., RunResult], quick: dict[str, Any], test_users: TestUsers, tmp_path: Path
) -> None:
    result = train("BPR", learning_rate=0.02)
    kept = write_record(result, tmp_path / "records", test_users)
    assert kept.path == tmp_path / "records/tiny/BPR" / result.path.name
    names = "config.yaml environment.json identity.json lists.json metrics.json ranks.parquet"
    assert sorted(file.name for file in kept.path.iterdir()) == [*names.split(), "slices.csv"]
    config = HellmConfig("BPR", "tiny", quick | {"learning_rate": 0.02})
    assert kept.recipe == content_hash(recipe(config))
    assert kept.seed == 2024
    assert kept.metrics("none") == result.metrics("test", "none")
    assert kept.record["features"] is None  # BPR reads none
    for masking, ranks in kept.ranks().items():
        found = SLICED.of_ranks(ranks)
        assert found.items() <= kept.metrics(masking).items()
    slices = kept.slices()
    assert set(slices["masking"]) == {"seen", "train", "none"}
    everyone = slices[slices["grouping"].eq("all") & slices["masking"].eq("seen")]
    by_metric = dict(zip(everyone["metric"], everyone["value"], strict=True))
    assert by_metric == pytest.approx({k: kept.metrics("seen")[k] for k in by_metric}, abs=1e-6)
    assert kept.lists()["itemcoverage@10"] > 0
    assert "diversity@10" in kept.lists()


class Hits(UserListMetric):
    """Whether the held-out item is in the list."""

    def per_list(self, lists: RecommendedLists) -> np.ndarray:
        """One comparison a place."""
        assert lists.targets is not None
        return (lists.items == lists.targets[:, None]).any(axis=1)


def test_metrics_that_are_asked_for_are_kept_by_user(
    train: Callable[..., RunResult], test_users: TestUsers, tmp_path: Path
) -> None:
    asked = MetricSet((Hits(), BUILT_IN["mrr"], BUILT_IN["giniindex"], Recall()), (5, 10, 50))
    kept = write_record(train("BPR"), tmp_path / "records", test_users, asked=asked)
    assert set(kept.user_values) == {("seen", "hits@5"), ("seen", "hits@10")}  # 12 items were kept
    (method,) = methods({"BPR": [kept]})
    for k in (5, 10):
        recall = Recall().per_user(kept.ranks()["seen"], k)
        tied = kept.ranks()["seen"].tied > 0  # a list has one order
        hits = method.per_user(f"hits@{k}", "seen")[0]
        assert hits[~tied].tolist() == recall[~tied].tolist()
        assert hits.sum() > 0
    assert [method.has_users(key, "seen") for key in ("hits@5", "hits@50", "mrr@50")] == [1, 0, 1]
    assert not method.has_users("hits@5", "none")
    assert not method.has_users("mrr@300", "seen")  # beyond what is kept of ranks
    assert {"hits@10", "mrr@50", "recall@5"} <= set(kept.slices()["metric"])
    assert {"hits@10", "novelty@10"} <= set(kept.lists())
    (kept.path / "values.parquet").write_text("")
    with pytest.raises(RunError, match=r"values\.parquet is damaged"):
        dataclasses.replace(kept).user_values  # noqa: B018


def test_a_record_names_no_user_item_or_folder(
    train: Callable[..., RunResult], test_users: TestUsers, tmp_path: Path
) -> None:
    result = train("BPR")
    kept = write_record(result, tmp_path / "records", test_users)
    texts = [f.read_text() for f in kept.path.iterdir() if f.suffix != ".parquet"]
    frame = pd.read_parquet(kept.path / "ranks.parquet")
    assert all(np.issubdtype(kind, np.integer) for kind in frame.dtypes)
    tokens = [*test_users.dataset.user_tokens, *test_users.dataset.item_tokens]
    for text in texts:
        assert str(tmp_path) not in text
        assert not any(f'"{token}"' in text or f",{token}," in text for token in tokens)
    command = json.loads((kept.path / "environment.json").read_text())["command"]
    assert not any("/" in word for word in command)


def test_commands_keep_their_options() -> None:
    words = ["/a/b/recbole-hellm", "compare", "--runs_dir=/x/runs", "--seeds=3", "--x=c=/d/e"]
    told = records._without_paths({"command": words, "python": "3.11"})
    shown = ["recbole-hellm", "compare", "--runs_dir=runs", "--seeds=3", "--x=e"]
    assert told == {"command": shown, "python": "3.11"}


def test_costs_of_stages_are_added(
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    test_users: TestUsers,
    tmp_path: Path,
) -> None:
    result = train("HeLLM", **small_model)
    kept = write_record(result, tmp_path / "records", test_users)
    stages = {stage.record["model"]: stage.record["cost"] for stage in result.stages}
    assert set(stages) == {"HeLLMPre", "SASRec"}
    for key in ("train_seconds", "train_cpu_seconds"):
        parts = [result.record["cost"][key], *(cost[key] for cost in stages.values())]
        assert kept.record["cost_with_stages"][key] == pytest.approx(sum(parts))
    assert kept.record["features"] == {"text": "toy"}
    whole = HellmConfig("HeLLM", "tiny", small_model | {"epochs": 2})
    assert kept.recipe == content_hash(recipe(whole))


def test_points_of_a_figure_are_kept_without_details(
    train: Callable[..., RunResult], test_users: TestUsers, tmp_path: Path
) -> None:
    kept = write_record(train("BPR"), tmp_path / "records", test_users, details=False)
    assert not kept.detailed
    assert not (kept.path / "ranks.parquet").exists()
    assert kept.lists() == {}


def test_short_lists_are_left_out(
    train: Callable[..., RunResult], test_users: TestUsers, tmp_path: Path
) -> None:
    kept = write_record(train("BPR", save_topk=0), tmp_path / "records", test_users)
    assert kept.detailed and kept.lists() == {}


def test_records_are_found_by_recipe_and_others_passed_over(
    make_kept: Callable[..., Record], good: list[int], tmp_path: Path
) -> None:
    first, second = make_kept("A", good), make_kept("A", good, seed=7)
    (tmp_path / "records/tiny/A/old").mkdir()
    (tmp_path / "records/tiny/A/old/metrics.json").write_text("{}")
    found = read_records(tmp_path / "records", "tiny")
    assert {key: kept.path for key, kept in found.items()} == {
        first.recipe: first.path,
        second.recipe: second.path,
    }
    assert read_records(tmp_path / "records", "other") == {}


def test_a_record_that_was_changed_by_hand_is_refused(
    make_kept: Callable[..., Record], good: list[int], tmp_path: Path
) -> None:
    kept = make_kept("A", good)
    (kept.path / "config.yaml").write_text("model: A\nseed: 2025\n")
    with pytest.raises(RunError, match=r"config.yaml or identity.json does not fit metrics.json"):
        read_records(tmp_path / "records", "tiny")


def test_other_users_than_the_runs_are_refused(
    train: Callable[..., RunResult],
    make_dataset: Callable[[Path, pd.DataFrame], None],
    interactions: pd.DataFrame,
    quick: dict[str, Any],
    tmp_path: Path,
) -> None:
    make_dataset(tmp_path / "data/tiny", interactions[interactions["user_id"] != "u39"])
    there = quick | {"data_path": str(tmp_path / "data")}
    other = TestUsers.open(HellmConfig("BPR", "tiny", there))
    with pytest.raises(RunError, match=r"and the dataset in .*data/tiny differ in split"):
        write_record(train("BPR"), tmp_path / "records", other)
    assert not (tmp_path / "records").exists()


def test_records_of_one_recipe_and_different_data_are_told(
    make_kept: Callable[..., Record], good: list[int], tmp_path: Path
) -> None:
    kept = make_kept("A", good)
    shutil.copytree(kept.path, kept.path.with_name("other"))
    other = kept.path.with_name("other") / "metrics.json"
    other.write_text(json.dumps(kept.record | {"split": "t" * 64}))
    with pytest.raises(RunError, match=r"the same settings and different data \(split\)"):
        read_records(tmp_path / "records", "tiny")
    here: Any = SimpleNamespace(split="t" * 64, encoders={"text": "toy"})
    found = read_records(tmp_path / "records", "tiny", here)
    assert [run.path for run in found.values()] == [other.parent]


def test_records_of_other_item_features_are_passed_over_or_told(
    make_kept: Callable[..., Record], good: list[int], tmp_path: Path
) -> None:
    kept, plain = make_kept("A", good), make_kept("B", good, features=None)
    shutil.copytree(kept.path, kept.path.with_name("other"))
    other = kept.path.with_name("other") / "metrics.json"
    other.write_text(json.dumps(kept.record | {"features": {"text": "toy", "image": "clip"}}))
    for encoders, path in (({"text": "toy"}, kept.path), ({"text": "toy", "image": "clip"}, None)):
        here: Any = SimpleNamespace(split="s" * 64, encoders=encoders)
        found = read_records(tmp_path / "records", "tiny", here)
        assert {run.path for run in found.values()} == {path or other.parent, plain.path}
    with pytest.raises(RunError, match=r"the same settings and different data \(features\)"):
        read_records(tmp_path / "records", "tiny")


@pytest.mark.parametrize("name", ["metrics.json", "identity.json", "config.yaml"])
@pytest.mark.parametrize("content", ["", "{}", "[", '{"recipe": 1}'])
def test_a_damaged_record_is_told(
    make_kept: Callable[..., Record], good: list[int], tmp_path: Path, name: str, content: str
) -> None:
    kept = make_kept("A", good)
    (kept.path / name).write_text(content)
    if name == "metrics.json" and content == "{}":
        assert read_records(tmp_path / "records", "tiny") == {}  # a record of another kind
        return
    with pytest.raises(RunError, match=r"take (its folder|the record) out"):
        read_records(tmp_path / "records", "tiny")


def test_damaged_details_are_told(make_kept: Callable[..., Record], good: list[int]) -> None:
    kept = make_kept("A", good)
    (kept.path / "slices.csv").write_text("")
    with pytest.raises(RunError, match=r"slices\.csv is damaged"):
        kept.slices()
    (kept.path / "lists.json").write_text("{")
    with pytest.raises(RunError, match=r"lists\.json is no JSON"):
        kept.lists()


def test_whole_paths_in_settings_are_no_part_of_a_record(tmp_path: Path) -> None:
    settings = {"backbone": str(tmp_path / "models/llama"), "epochs": 3, "a": "b/c"}
    assert portable(settings) == {"backbone": "llama", "epochs": 3, "a": "b/c"}
    places = [tmp_path / "here/llama", tmp_path / "there/llama"]
    configs = [HellmConfig("HeLLM", "sample", {"backbone": str(place)}) for place in places]
    first, second = (recipe(config) for config in configs)
    assert first == second
    identity = {"settings": settings, "stages": {"graph": {"settings": settings, "stages": {}}}}
    assert str(tmp_path) not in json.dumps(records._portable(identity))


def test_a_record_is_sealed_and_replaced_whole(
    train: Callable[..., RunResult], test_users: TestUsers, tmp_path: Path
) -> None:
    result = train("BPR")
    point = write_record(result, tmp_path / "records", test_users, details=False)
    (point.path / "old.txt").write_text("gone with it")
    kept = write_record(result, tmp_path / "records", test_users)
    assert kept.path == point.path
    directory = RecordDirectory(kept.path)
    written = {path.name for path in kept.path.iterdir()} - {"metrics.json"}
    assert set(directory.listed() or ()) == written
    assert "ranks.parquet" in written and "old.txt" not in written
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]
    (found,) = read_records(tmp_path / "records", "tiny").values()
    assert found.record == kept.record == directory.read_record()


class Killed(BaseException):
    """The process is killed: nothing is cleaned up after it."""


@pytest.mark.parametrize("at", range(1, 12))
def test_a_kill_while_a_record_is_replaced_loses_none(
    train: Callable[..., RunResult],
    test_users: TestUsers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    result = train("BPR", save_topk=0)
    expected = write_record(result, tmp_path / "records", test_users, details=False)
    calls = [0]
    replace = os.replace

    def killed(*paths: Any) -> None:
        calls[0] += 1
        if calls[0] >= at:
            raise Killed
        replace(*paths)

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(os, "replace", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        write_record(result, tmp_path / "records", test_users)
    (found,) = read_records(tmp_path / "records", "tiny").values()
    assert found.record == expected.record
    kept = write_record(result, tmp_path / "records", test_users)
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]
    assert kept.detailed
    # Killed after the record was in place: what is left goes when the records are read.
    (kept.path.parent / ".lock").touch()
    assert read_records(tmp_path / "records", "tiny")
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]


def test_records_are_written_one_at_a_time(
    train: Callable[..., RunResult],
    test_users: TestUsers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = train("BPR", save_topk=0)
    kept = write_record(result, tmp_path / "records", test_users)
    monkeypatch.setattr(records, "PATIENCE", 0.1)
    with (
        locked(kept.path.parent / ".lock", RunError("busy")),
        pytest.raises(RunError, match=r"records/tiny/BPR has been in use by another process"),
    ):
        write_record(result, tmp_path / "records", test_users)
    assert read_records(tmp_path / "records", "tiny")


def test_a_full_disk_leaves_the_old_record(
    train: Callable[..., RunResult],
    test_users: TestUsers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = train("BPR", save_topk=0)
    expected = write_record(result, tmp_path / "records", test_users)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", full)
        with pytest.raises(StorageError, match="the disk is full"):
            write_record(result, tmp_path / "records", test_users)
    (found,) = read_records(tmp_path / "records", "tiny").values()
    assert found.record == expected.record
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]


@pytest.mark.parametrize("pattern", ["ranks-train.parquet", "topk-*.parquet"])
def test_a_damaged_file_of_a_run_makes_no_record(
    train: Callable[..., RunResult], test_users: TestUsers, tmp_path: Path, pattern: str
) -> None:
    result = train("BPR")
    (path,) = result.path.glob(pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), None):
        path.write_bytes(damaged) if damaged else path.unlink()
        with pytest.raises(RunError, match=rf"{path.name} is damaged .*--force"):
            write_record(result, tmp_path / "records", test_users)
        assert not list((tmp_path / "records").rglob("metrics.json"))
