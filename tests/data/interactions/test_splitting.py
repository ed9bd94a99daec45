"""Splits of a whole dataset, as both families of models get them, against loops over the file."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.data.interactions.histories import PHASES
from recbole_hellm.errors import DataError

Parts = Callable[..., tuple[Any, Any, list[Any]]]
TEMPORAL = {"split": "temporal", "split_points": [0.6, 0.8]}
RATIO = {"split": "ratio"}


@pytest.fixture
def place(spread_data: Path) -> dict[str, Any]:
    """The setting that names the folder of the data."""
    return {"data_path": str(spread_data)}


def wanted_parts(frame: pd.DataFrame, split: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Training, validation and test items of each user, by loops."""
    ordered = frame.sort_values(["user_id", "timestamp", "item_id"], kind="stable")
    times = sorted(frame["timestamp"])
    found = {}
    for user, rows in ordered.groupby("user_id"):
        items, moments = rows["item_id"].tolist(), rows["timestamp"].tolist()
        if split["split"] == "temporal":
            points = [times[round(share * len(times))] for share in split["split_points"]]
            cuts = [sum(moment < point for moment in moments) for point in points]
        else:
            count = len(items)
            valid = test = count // 10
            if count - valid - test > 1 and test == 0:
                test = 1
            if count - valid - test > 1 and valid == 0:
                valid = 1
            cuts = [count - valid - test, count - test]
        found[str(user)] = [items[: cuts[0]], items[cuts[0] : cuts[1]], items[cuts[1] :]]
    return found


@pytest.mark.parametrize("split", [TEMPORAL, RATIO], ids=["temporal", "ratio"])
@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_parts_are_those_of_a_loop(
    make_parts: Parts,
    spread: pd.DataFrame,
    place: dict[str, Any],
    model: str,
    split: dict[str, Any],
) -> None:
    _, dataset, parts = make_parts(model, MAX_ITEM_LIST_LENGTH=50, **split, **place)
    wanted = wanted_parts(spread, split)
    first = 0 if model == "BPR" else 1  # a user's first interaction has no history
    for number, part in enumerate(parts):
        rows = part.inter_feat
        users = dataset.id2token("user_id", rows["user_id"].numpy())
        items = dataset.id2token("item_id", rows["item_id"].numpy())
        found = sorted(zip(users, items, strict=True))
        assert found == sorted(
            (user, item)
            for user, lists in wanted.items()
            for item in lists[number][max(0, first - sum(map(len, lists[:number]))) :]
        )
        if model == "SASRec":
            for row in range(len(rows)):
                lists = wanted[str(users[row])]
                length = int(rows["item_length"][row])
                history = dataset.id2token("item_id", rows["item_id_list"][row, :length].numpy())
                before = [*itertools.chain(*lists)][:length]
                assert list(history) == before
                held = length - sum(map(len, lists[:number]))
                assert lists[number][held] == items[row]


def test_nothing_of_training_is_later_than_a_point(
    make_parts: Parts, spread: pd.DataFrame, place: dict[str, Any]
) -> None:
    """The promise of a temporal split; repeated pairs of a user and an item are left aside."""
    once = spread.drop_duplicates(["user_id", "item_id"], keep=False)
    times = once.set_index(["user_id", "item_id"])["timestamp"]
    for model in ("BPR", "SASRec"):
        _, dataset, parts = make_parts(model, **TEMPORAL, **place)
        moments: list[list[int]] = []
        for part in parts:
            users = dataset.id2token("user_id", part.inter_feat["user_id"].numpy())
            items = dataset.id2token("item_id", part.inter_feat["item_id"].numpy())
            pairs = [pair for pair in zip(users, items, strict=True) if pair in times.index]
            moments.append([int(times[pair]) for pair in pairs])
        assert max(moments[0]) < min(moments[1])
        assert max(moments[1]) < min(moments[2])


@pytest.mark.parametrize("split", [TEMPORAL, RATIO], ids=["temporal", "ratio"])
def test_what_training_does_not_know_is_counted_and_told(
    make_parts: Parts,
    spread: pd.DataFrame,
    place: dict[str, Any],
    split: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        _, dataset, _ = make_parts("BPR", **split, **place)
    wanted = wanted_parts(spread, split)
    known = {item for lists in wanted.values() for item in lists[0]}
    assert dataset.held_out["rows"] == "user"
    assert dataset.held_out["train_interactions"] == sum(len(x[0]) for x in wanted.values())
    for phase, number in (("valid", 1), ("test", 2)):
        evaluated = {u: set(x[number]) for u, x in wanted.items() if x[0] and x[number]}
        unknown = [x[number] for x in wanted.values() if not x[0] and x[number]]
        targets = [item for items in evaluated.values() for item in items]
        cold = [item for item in targets if item not in known]
        assert dataset.held_out[phase] == {
            "users": len(evaluated),
            "rows": len(evaluated),
            "targets": len(targets),
            "unknown_items": len(set(cold)),
            "unknown_item_targets": len(cold),
            "unknown_users": len(unknown),
            "unknown_user_interactions": sum(map(len, unknown)),
        }
        assert f"'tiny', {phase}: {len(targets)} targets of {len(evaluated)} users" in caplog.text
    if split is TEMPORAL:
        assert dataset.held_out["test"]["unknown_users"] > 0
        assert "'tiny': validation begins at 2014-01-1" in caplog.text


def test_rows_are_of_users_or_interactions_as_asked(
    make_parts: Parts, place: dict[str, Any]
) -> None:
    for model, rows, unit in (
        ("BPR", "auto", "user"),
        ("SASRec", "auto", "interaction"),
        ("BPR", "interaction", "interaction"),
        ("SASRec", "user", "user"),
    ):
        _, dataset, parts = make_parts(model, split_rows=rows, **TEMPORAL, **place)
        assert dataset.held_out["rows"] == unit
        for phase, part in zip(PHASES, parts[1:], strict=True):
            chosen = dataset.target_rows(phase)
            assert len(chosen) == dataset.held_out[phase]["rows"]
            found = part.inter_feat[dataset.part_rows(part, phase)]
            assert found["user_id"].tolist() == chosen.users.tolist()
            firsts = chosen.items[chosen.offsets[:-1]]
            assert found["item_id"].tolist() == firsts.tolist()
            if model == "SASRec":
                assert found["item_length"].tolist() == chosen.places.tolist()


@pytest.mark.parametrize("split", [TEMPORAL, RATIO], ids=["temporal", "ratio"])
def test_one_fingerprint_for_both_families_any_row_order_and_either_unit(
    make_config: Callable[..., Any],
    spread: pd.DataFrame,
    make_dataset: Any,
    tmp_path: Path,
    split: dict[str, Any],
) -> None:
    found = set()
    for seed in range(2):
        root = tmp_path / str(seed)
        make_dataset(root / "tiny", spread.sample(frac=1, random_state=seed))
        for model in ("BPR", "SASRec"):
            for rows in ("user", "interaction"):
                config = make_config(model, data_path=str(root), split_rows=rows, **split)
                dataset = create_dataset(config)
                found.add((dataset.fingerprint, dataset.candidates_hash))
    assert len(found) == 1


def test_every_split_has_a_fingerprint_of_its_own(
    make_config: Callable[..., Any], place: dict[str, Any]
) -> None:
    random = RATIO | {"split_order": "random"}
    splits: list[dict[str, Any]] = [
        {},
        TEMPORAL,
        TEMPORAL | {"split_points": [0.6, 0.7]},
        RATIO,
        RATIO | {"split_ratios": [6, 2, 2]},
        random,
        random | {"split_seed": 1},
    ]
    found = [create_dataset(make_config("BPR", **split, **place)).fingerprint for split in splits]
    assert len(set(found)) == len(splits)
    assert create_dataset(make_config("BPR", **random, **place)).fingerprint == found[5]


def test_a_random_split_does_not_depend_on_the_order_of_the_file(
    make_config: Callable[..., Any], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    found = set()
    for seed in range(2):
        make_dataset(tmp_path / str(seed) / "tiny", interactions.sample(frac=1, random_state=seed))
        options = {"data_path": str(tmp_path / str(seed)), "split_order": "random"} | RATIO
        dataset = create_dataset(make_config("BPR", **options))
        dataset.build()
        found.add(dataset.fingerprint)
        sizes = interactions.groupby("user_id").size()
        assert dataset.histories.lengths[1:].tolist() == sizes[dataset.user_tokens].tolist()
    assert len(found) == 1


def test_first_items_that_are_held_out_are_not_learnt(
    make_parts: Parts, place: dict[str, Any]
) -> None:
    _, dataset, parts = make_parts("SASRec", first_item_target=True, **TEMPORAL, **place)
    rows = parts[0].with_first_items().inter_feat
    assert len(rows) == dataset.histories.training_lengths.sum()
    learnt = np.bincount(rows["user_id"].numpy(), minlength=dataset.user_num)
    assert learnt.tolist() == dataset.histories.training_lengths.tolist()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"split_points": ["1999-01-01", "2014-01-19"]},
            r"split_points=\['1999-01-01', '2014-01-19'\] leave no user of 'tiny' with both "
            "training and valid interactions, so there is nothing to evaluate; change them",
        ),
        ({"split_points": [0.9, "2030-01-01"]}, "with both training and test interactions"),
        ({"split_points": [0.9, "2010-01-01"]}, "validation would begin at 2014-.* which is ear"),
    ],
)
def test_empty_parts_are_refused(
    make_config: Callable[..., Any], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        create_dataset(make_config("BPR", split="temporal", **options))


def test_a_temporal_split_needs_times(
    make_config: Callable[..., Any], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    frame = interactions.drop(columns="timestamp").assign(position=range(len(interactions)))
    make_dataset(tmp_path / "tiny", frame)
    options = {"data_path": str(tmp_path)}
    with pytest.raises(DataError, match="split=temporal needs times, and 'tiny' has only an ord"):
        create_dataset(make_config("BPR", split="temporal", **options))
    assert (
        create_dataset(make_config("BPR", split="ratio", **options)).histories.targets("test").any()
    )
