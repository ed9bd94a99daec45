from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.data.utils import create_samplers, get_dataloader
from recbole.model.general_recommender.bpr import BPR
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.trainer import Trainer

from recbole_hellm import compat
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.evaluation.evaluator import Evaluator

Parts = Callable[..., tuple[Any, Any, list[Any]]]
ALL = ("seen", "train", "none")


def user_scores(token: str, items: list[str]) -> np.ndarray:
    """Scores of a user that depend on tokens only; every third pair of items ties."""
    seeds = [sum(map(ord, token + item)) * 7 + 13 * index for index, item in enumerate(items)]
    return np.array([seed * 37 % 101 // 2 for seed in seeds], dtype=np.float32)


class TableModel(torch.nn.Module):
    """Looks scores up and keeps what it was shown."""

    tokens_per_item = 1

    def __init__(self, dataset: Any, full_sort: bool = True) -> None:
        super().__init__()
        items = sorted(dataset.item_tokens)
        by_token = {
            u: dict(zip(items, user_scores(u, items), strict=True)) for u in dataset.user_tokens
        }
        table = [[by_token[u][i] for i in dataset.item_tokens] for u in dataset.user_tokens]
        self.table = torch.nn.functional.pad(torch.tensor(np.array(table)), (1, 0, 1, 0), value=77)
        self.full_sort, self.shown = full_sort, []

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        if not self.full_sort:
            raise NotImplementedError
        self.shown.append(interaction)
        return self.table[interaction["user_id"]].flatten()

    def predict(self, interaction: Any) -> torch.Tensor:
        return self.table[interaction["user_id"], interaction["item_id"]]


def make_evaluator(config: Any, dataset: Any, parts: list[Any]) -> Evaluator:
    return Evaluator(config, dataset, dict(zip(("valid", "test"), parts[1:], strict=True)))


def reference(frame: pd.DataFrame, phase: str, masking: str, k: int) -> dict[str, float]:
    """Recall and NDCG by loops over users and tokens, ties averaged over places."""
    items = sorted(frame["item_id"].unique())
    recalls, gains = [], []
    for user, rows in frame.groupby("user_id"):
        history = rows.sort_values(["timestamp", "item_id"])["item_id"].tolist()
        if len(history) < 3:
            continue
        place = -1 if phase == "test" else -2
        target, before = history[place], history[:place]
        hidden = {"seen": before, "train": history[:-2], "none": []}[masking]
        scores = dict(zip(items, user_scores(str(user), items), strict=True))
        others = [scores[i] for i in items if i != target and i not in hidden]
        first = sum(score > scores[target] for score in others) + 1
        places = range(first, first + sum(score == scores[target] for score in others) + 1)
        recalls.append(np.mean([place <= k for place in places]))
        gains.append(np.mean([(place <= k) / math.log2(place + 1) for place in places]))
    return {f"recall@{k}": float(np.mean(recalls)), f"ndcg@{k}": float(np.mean(gains))}


@pytest.mark.parametrize("full_sort", [True, False])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("BPR", {"eval_users": 1}),
        ("BPR", {"eval_users": 7}),
        ("SASRec", {"eval_users": 1000}),
        ("SASRec", {"eval_users": 5, "bucket_by_length": False}),
    ],
)
def test_metrics_equal_loops_over_the_file(
    make_parts: Parts,
    interactions: pd.DataFrame,
    model: str,
    options: dict[str, Any],
    full_sort: bool,
) -> None:
    config, dataset, parts = make_parts(model, topk=[3, 10], **options)
    evaluator = make_evaluator(config, dataset, parts)
    for phase in ("valid", "test"):
        found = evaluator.evaluate(TableModel(dataset, full_sort), phase, ALL)
        for masking in ALL:
            for k in (3, 10):
                wanted = reference(interactions, phase, masking, k)
                metrics = found.metrics[masking]
                assert {key: metrics[key] for key in wanted} == pytest.approx(wanted, abs=1e-12)
        assert found.ranks["seen"].users.tolist() == dataset.histories.evaluated("test").tolist()


@pytest.mark.parametrize("split", ["leave_one_out", "ratio"])  # one target a user, and several
def test_bpr_has_recboles_own_metrics(make_parts: Parts, tmp_path: Path, split: str) -> None:
    config, dataset, parts = make_parts("BPR", metrics=NAMES, topk=[2, 10], split=split)
    torch.manual_seed(0)
    model = BPR(config, parts[0])
    config["checkpoint_dir"] = str(tmp_path)
    with compat.tensorboard_writer(None):
        trainer = Trainer(config, model)
    _, *samplers = create_samplers(config, dataset, parts)
    evaluator = make_evaluator(config, dataset, parts)
    for phase, part, sampler in zip(("valid", "test"), parts[1:], samplers, strict=True):
        loader = get_dataloader(config, phase)(config, part, sampler, shuffle=False)
        theirs = trainer.evaluate(loader, load_best_model=False)
        ours = evaluator.evaluate(model, phase, ("seen",)).metrics["seen"]
        assert ours == pytest.approx(dict(theirs), abs=1e-9)
        assert len(ours) == 12


def test_list_metrics_are_counted_over_the_top_lists(
    make_parts: Parts, interactions: pd.DataFrame
) -> None:
    """RecBole's trainer cannot compute them (collector.py:227), its metric classes can."""
    names = ["NDCG", "ItemCoverage", "AveragePopularity"]
    config, dataset, parts = make_parts("BPR", metrics=names, topk=[10, 2], save_topk=3)
    model = TableModel(dataset)
    found = make_evaluator(config, dataset, parts).evaluate(model, "test", ("none", "seen"))
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"])
    sizes = ordered.groupby("user_id")["item_id"].transform("size")
    left = ordered.groupby("user_id").cumcount(ascending=False)
    popularity = ordered[(left >= 2) | (sizes < 3)]["item_id"].value_counts()
    assert found.topk is not None
    assert found.topk.shape[1] == 3
    top = dataset.id2token("item_id", found.topk[:, :2])
    assert found.metrics["none"]["averagepopularity@2"] == pytest.approx(
        np.mean([popularity.get(item, 0) for item in top.ravel()])
    )
    assert found.metrics["none"]["itemcoverage@2"] == pytest.approx(len(np.unique(top)) / 31)
    assert "itemcoverage@2" not in found.metrics["seen"]


def test_a_sequential_model_has_recboles_metrics_when_nothing_is_masked(
    make_parts: Parts, tmp_path: Path
) -> None:
    config, dataset, parts = make_parts("GRU4Rec", bucket_by_length=True, MAX_ITEM_LIST_LENGTH=5)
    torch.manual_seed(0)
    model = GRU4Rec(config, parts[0])
    config["checkpoint_dir"] = str(tmp_path)
    with compat.tensorboard_writer(None):
        trainer = Trainer(config, model)
    samplers = create_samplers(config, dataset, parts)
    loader = get_dataloader(config, "test")(config, parts[2], samplers[2], shuffle=False)
    theirs = trainer.evaluate(loader, load_best_model=False)
    found = make_evaluator(config, dataset, parts).evaluate(model, "test", ("none", "seen"))
    assert found.metrics["none"] == pytest.approx(dict(theirs), abs=1e-9)
    assert found.metrics["none"] != found.metrics["seen"]


def test_a_model_sees_the_history_and_never_the_target(
    make_parts: Parts, interactions: pd.DataFrame
) -> None:
    config, dataset, parts = make_parts("SASRec", MAX_ITEM_LIST_LENGTH=5, bucket_by_length=False)
    evaluator, model = make_evaluator(config, dataset, parts), TableModel(dataset)
    for phase, until in (("valid", -2), ("test", -1)):
        model.shown.clear()
        evaluator.evaluate(model, phase, ("seen",))
        shown = model.shown[0]
        assert set(shown.columns) == {
            "user_id",
            "item_length",
            "item_id_list",
            "position_list",
            "timestamp_list",
        }
        for row in range(len(shown)):
            user = dataset.id2token("user_id", int(shown["user_id"][row]))
            rows = interactions[interactions["user_id"] == user]
            ordered = rows.sort_values(["timestamp", "item_id"])["item_id"].tolist()
            length = int(shown["item_length"][row])
            items = dataset.id2token("item_id", shown["item_id_list"][row, :length].numpy())
            assert list(items) == ordered[:until][-5:]
            assert not shown["item_id_list"][row, length:].any()


def test_fewer_users_are_scored_at_once_where_an_item_is_several_tokens(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("SASRec", eval_users=7)
    evaluator, model = make_evaluator(config, dataset, parts), TableModel(dataset)
    found = []
    for tokens, most in ((1, 7), (3, 2), (9, 1)):
        model.tokens_per_item = tokens
        model.shown.clear()
        found.append(evaluator.evaluate(model, "test", ("seen",)).metrics)
        assert max(map(len, model.shown)) == most
    assert found[0] == found[1] == found[2]


def test_a_general_model_sees_the_user_and_its_features_only(
    make_parts: Parts, tmp_path: Path, interactions: pd.DataFrame, make_dataset: Any
) -> None:
    folder = tmp_path / "tiny"
    make_dataset(folder, interactions.assign(rating=5.0))
    users = sorted(interactions["user_id"].unique())
    lines = [f"{user}\t{10 + row}" for row, user in enumerate([*users, "nobody"])]
    (folder / "tiny.user").write_text("user_id:token\tage:token\n" + "\n".join(lines) + "\n")
    columns = {"inter": ["user_id", "item_id", "rating"], "user": ["user_id", "age"]}
    config, dataset, parts = make_parts("FM", data_path=str(tmp_path), load_col=columns)
    assert dataset.user_num == len(users) + 1  # nobody does not enter
    model = TableModel(dataset)
    make_evaluator(config, dataset, parts).evaluate(model, "test", ("seen",))
    shown = model.shown[0]
    assert set(shown.columns) == {"user_id", "age"}
    ages = dataset.id2token("age", shown["age"].numpy())
    tokens = dataset.id2token("user_id", shown["user_id"].numpy())
    assert [users.index(token) + 10 for token in tokens] == [int(age) for age in ages]


def test_top_lists_are_the_best_candidates_in_order(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("BPR", save_topk=4, eval_users=5)
    model = TableModel(dataset)
    model.table += torch.rand(model.table.shape, generator=torch.Generator().manual_seed(0)) / 10
    evaluator = make_evaluator(config, dataset, parts)
    found = evaluator.evaluate(model, "test", ("seen", "none"))
    histories = dataset.histories
    assert found.topk is not None
    assert evaluator.evaluate(model, "valid", ("seen",)).topk is None
    for row, user in enumerate(histories.evaluated("test")):
        items = histories.items[histories.offsets[user] : histories.offsets[user + 1]]
        hidden = {0, *items[:-1]} - {items[-1]}
        order = [i for i in torch.argsort(-model.table[user]).tolist() if i not in hidden]
        assert found.topk[row].tolist() == order[:4]


def test_lists_longer_than_the_catalogue_are_refused(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("BPR", save_topk=31)
    with pytest.raises(ConfigError, match="lower save_topk"):
        make_evaluator(config, dataset, parts)


def test_a_metric_that_lacks_something_is_refused_before_training(
    make_parts: Parts, make_dataset: Any, interactions: pd.DataFrame, tmp_path: Path
) -> None:
    config, dataset, parts = make_parts("BPR", metrics=["NDCG", "Diversity"], topk=[1, 10])
    with pytest.raises(ConfigError, match="diversity@1 needs lists of two items or more"):
        make_evaluator(config, dataset, parts)
    make_dataset(tmp_path / "tiny", interactions)
    shutil.rmtree(tmp_path / "tiny/features")
    options = {"metrics": ["NDCG", "Diversity"], "data_path": str(tmp_path)}
    config, dataset, parts = make_parts("BPR", **options)
    with pytest.raises(ConfigError, match=r"diversity@10 needs item features, which .* metrics\.$"):
        make_evaluator(config, dataset, parts)


def test_this_packages_list_metrics_are_counted_on_both_splits(make_parts: Parts) -> None:
    names = ["NDCG", "novelty", "Personalisation", "diversity", "popularitylift", "entropy"]
    options = {"metrics": names, "valid_metric": "Novelty@3", "topk": [3, 10]}
    config, dataset, parts = make_parts("BPR", **options)
    evaluator, model = make_evaluator(config, dataset, parts), TableModel(dataset)
    model.table += torch.rand(model.table.shape, generator=torch.Generator().manual_seed(0)) / 10
    counts, users = dataset.training_counts, len(dataset.user_tokens)
    histories = dataset.histories
    for phase in ("valid", "test"):
        metrics = evaluator.evaluate(model, phase, ("seen", "none")).metrics["seen"]
        assert [*metrics][2::2] == [f"{name.lower()}@3" for name in names[1:]]
        bits = []
        targets = histories.targets(phase).tolist()
        for user, target in zip(histories.evaluated(phase), targets, strict=True):
            begin = histories.offsets[user]
            known = histories.items[begin : begin + histories.before(phase)[user]]
            order = torch.argsort(-model.table[user]).tolist()
            hidden = {0, *known.tolist()} - {target}
            shown = [item for item in order if item not in hidden][:3]
            bits += [-math.log2(max(counts[item], 0.5) / users) for item in shown]
        assert metrics["novelty@3"] == pytest.approx(np.mean(bits))


def test_nan_scores_stop_the_run(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("BPR")
    model = TableModel(dataset)
    model.table[5, 3] = math.nan
    with pytest.raises(RunError, match="BPR gives NaN scores on valid; lower learning_rate"):
        make_evaluator(config, dataset, parts).evaluate(model, "valid", ("seen",))


def test_scores_of_another_width_stop_the_run(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("BPR")
    model = TableModel(dataset)
    model.table = model.table[:, 1:]
    with pytest.raises(RunError, match="scores 30 items instead of 31"):
        make_evaluator(config, dataset, parts).evaluate(model, "test", ("seen",))


def test_recboles_transform_reaches_the_model(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("SHAN", MAX_ITEM_LIST_LENGTH=5)
    model = TableModel(dataset)
    make_evaluator(config, dataset, parts).evaluate(model, "test", ("seen",))
    shown: Interaction = model.shown[0]
    flipped = shown[config["INVERSE_ITEM_SEQ"]]
    for row in range(len(shown)):
        length = int(shown["item_length"][row])
        assert flipped[row, 5 - length :].tolist() == shown["item_id_list"][row, :length].tolist()


# Other protocols --------------------------------------------------------------------------------

TEMPORAL = {"split": "temporal", "split_points": [0.6, 0.8]}
NAMES = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP"]


@pytest.fixture
def place(spread_data: Path) -> dict[str, Any]:
    """The setting that names the folder of the data."""
    return {"data_path": str(spread_data)}


def rows_of(
    frame: pd.DataFrame, phase: str, unit: str, masking: str
) -> dict[str, list[tuple[set[str], set[str]]]]:
    """Targets and hidden items of each row of a temporal split, by user, from the file alone."""
    times = sorted(frame["timestamp"])
    begin, end = (times[round(share * len(times))] for share in TEMPORAL["split_points"])
    found = {}
    for user, rows in frame.groupby("user_id"):
        ordered = rows.sort_values(["timestamp", "item_id"])
        items, moments = ordered["item_id"].tolist(), ordered["timestamp"].tolist()
        train, until = sum(m < begin for m in moments), sum(m < end for m in moments)
        first, last = (train, until) if phase == "valid" else (until, len(items))
        if not train or first == last:
            continue
        if unit == "user":
            cuts = [(first, set(items[first:last]))]
        else:
            cuts = [(place, {items[place]}) for place in range(first, last)]
        found[str(user)] = [
            (targets, set(items[: {"seen": place, "train": train, "none": 0}[masking]]))
            for place, targets in cuts
        ]
    return found


def metrics_of(found: list[bool], k: int) -> dict[str, float]:
    """RecBole's definitions, written out, of one ranking without ties."""
    places = [place for place, hit in enumerate(found, 1) if hit]
    first, most = [place for place in places if place <= k], min(len(places), k)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, most + 1))
    return {
        "recall": len(first) / len(places),
        "ndcg": sum(1 / math.log2(place + 1) for place in first) / ideal,
        "mrr": 1 / first[0] if first else 0.0,
        "hit": float(bool(first)),
        "precision": len(first) / k,
        "map": sum(number / place for number, place in enumerate(first, 1)) / most,
    }


@pytest.mark.parametrize(("model", "unit"), [("BPR", "user"), ("SASRec", "interaction")])
@pytest.mark.parametrize("phase", ["valid", "test"])
def test_several_targets_equal_loops_over_the_file(
    make_parts: Parts,
    spread: pd.DataFrame,
    place: dict[str, Any],
    model: str,
    unit: str,
    phase: str,
) -> None:
    options = TEMPORAL | place | {"metrics": NAMES, "topk": [1, 3, 10], "eval_users": 5}
    config, dataset, parts = make_parts(model, **options)
    evaluator, table = make_evaluator(config, dataset, parts), TableModel(dataset)
    table.table += torch.rand(table.table.shape, generator=torch.Generator().manual_seed(0)) / 10
    found = evaluator.evaluate(table, phase, ALL)
    items = dataset.item_tokens.tolist()
    for masking in ALL:
        wanted: dict[str, list[float]] = {}
        for user, rows in rows_of(spread, phase, unit, masking).items():
            scores = table.table[dataset.token2id("user_id", user)][1:].tolist()
            order = [items[i] for i in np.argsort(-np.array(scores))]
            of_rows = [
                {
                    f"{name}@{k}": value
                    for k in (1, 3, 10)
                    for name, value in metrics_of(
                        [
                            item in targets
                            for item in order
                            if item in targets or item not in hidden
                        ],
                        k,
                    ).items()
                }
                for targets, hidden in rows
            ]
            for key in of_rows[0]:
                wanted.setdefault(key, []).append(float(np.mean([row[key] for row in of_rows])))
        means = {key: np.mean(values) for key, values in wanted.items()}
        assert found.metrics[masking] == pytest.approx(means, abs=1e-9)
        assert len(found.ranks[masking].user_ids) == len(wanted["hit@1"])


def test_a_sequential_model_has_recboles_ranks_of_each_interaction(
    make_parts: Parts, spread: pd.DataFrame, place: dict[str, Any], tmp_path: Path
) -> None:
    """RecBole averages over interactions, this package over users."""
    options = {"split": "ratio", "split_ratios": [5, 2, 3], "metrics": NAMES} | place
    config, dataset, parts = make_parts("GRU4Rec", **options)
    torch.manual_seed(0)
    model = GRU4Rec(config, parts[0])
    config["checkpoint_dir"] = str(tmp_path)
    with compat.tensorboard_writer(None):
        trainer = Trainer(config, model)
    samplers = create_samplers(config, dataset, parts)
    loader = get_dataloader(config, "test")(config, parts[2], samplers[2], shuffle=False)
    theirs = trainer.evaluate(loader, load_best_model=False)
    evaluator = make_evaluator(config, dataset, parts)
    ranks = evaluator.evaluate(model, "test", ("none",)).ranks["none"]
    assert len(ranks.users) > len(ranks.user_ids)
    ours = {
        key: metric.per_row(ranks, k).mean()
        for key, (metric, k) in evaluator.metrics.measures.items()
    }
    assert ours == pytest.approx(dict(theirs), abs=1e-9)


@pytest.mark.parametrize("unit", ["user", "interaction"])
def test_lists_are_of_rows(
    make_parts: Parts, spread: pd.DataFrame, place: dict[str, Any], unit: str
) -> None:
    names = ["NDCG", "Novelty", "ItemCoverage"]
    options = TEMPORAL | place | {"metrics": names, "save_topk": 3, "split_rows": unit}
    config, dataset, parts = make_parts("BPR", topk=[3], valid_metric="NDCG@3", **options)
    evaluator, model = make_evaluator(config, dataset, parts), TableModel(dataset)
    model.table += torch.rand(model.table.shape, generator=torch.Generator().manual_seed(0)) / 10
    found = evaluator.evaluate(model, "test", ("seen",))
    rows = rows_of(spread, "test", unit, "seen")
    flat = [(user, *row) for user, of_user in sorted(rows.items()) for row in of_user]
    assert found.topk is not None
    assert len(found.topk) == len(flat)
    items = dataset.item_tokens.tolist()
    for shown, (user, targets, hidden) in zip(found.topk, flat, strict=True):
        scores = model.table[dataset.token2id("user_id", user)][1:].tolist()
        order = [items[i] for i in np.argsort(-np.array(scores))]
        left = [item for item in order if item in targets or item not in hidden]
        assert dataset.id2token("item_id", shown).tolist() == left[:3]
    coverage = len(np.unique(found.topk)) / 31
    assert found.metrics["seen"]["itemcoverage@3"] == pytest.approx(coverage)


@pytest.mark.parametrize(("model", "split"), [("BPR", {}), ("BPR", TEMPORAL), ("SASRec", TEMPORAL)])
def test_sampled_candidates_are_those_of_the_user_under_any_masking(
    make_parts: Parts,
    spread: pd.DataFrame,
    place: dict[str, Any],
    model: str,
    split: dict[str, Any],
) -> None:
    config, dataset, parts = make_parts(model, candidates="uniform-100", **split, **place)
    evaluator, table = make_evaluator(config, dataset, parts), TableModel(dataset)
    found = evaluator.evaluate(table, "test", ALL)
    rows, histories = dataset.target_rows("test"), dataset.histories
    ranks = found.ranks["seen"]
    numbers = np.arange(len(rows)) if ranks.rows is None else ranks.rows
    for number, row in enumerate(numbers):
        user = rows.users[row]
        known = histories.items[histories.offsets[user] : histories.offsets[user + 1]]
        targets = rows.items[rows.offsets[row] : rows.offsets[row + 1]]
        # So few items that all the others are drawn.
        pool = {*range(1, 31)} - {*known.tolist()} | {*targets.tolist()}
        assert ranks.candidates[number] == len(pool)
        others = table.table[user, [*(pool - {int(rows.items[number])})]]
        assert ranks.higher[number] == int((others > table.table[user, rows.items[number]]).sum())
    for masking in ("train", "none"):
        assert found.metrics[masking] == found.metrics["seen"]
