"""Recommendations against a brute-force ranking of the model's own scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_hellm import recommend, run
from recbole_hellm.errors import ConfigError, DataError, RunError
from recbole_hellm.runs.recommending import Recommender, _best
from recbole_hellm.runs.results import RunResult


@pytest.fixture
def train(quick: dict[str, Any]) -> Callable[..., RunResult]:
    return lambda model, **options: run(model, "tiny", **quick | {"learning_rate": 0.01} | options)


def histories(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Each user's items in order, read from the interactions themselves."""
    ordered = frame.sort_values(["user_id", "timestamp", "item_id"], kind="stable")
    return ordered.groupby("user_id")["item_id"].apply(list).to_dict()


def own_scores(opened: Any, user: str, history: list[str], limit: int) -> dict[str, float]:
    """Scores by item token from a single call of the model."""
    dataset = opened.dataset
    ids = dataset.field2token_id["item_id"]
    known = [ids[token] for token in history][-limit:]
    columns = {
        "user_id": torch.tensor([dataset.field2token_id["user_id"][user]]),
        "item_id_list": torch.tensor([known + [0] * (limit - len(known))]),
        "item_length": torch.tensor([len(known)]),
    }
    with torch.no_grad():
        scores = opened.model.full_sort_predict(Interaction(columns)).reshape(-1)
    return {str(token): float(scores[ids[token]]) for token in dataset.item_tokens}


@pytest.mark.parametrize("model", ["BPR", "SASRec", "HeLLM"])
def test_the_best_unseen_items_of_the_models_own_scores(
    model: str,
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    interactions: pd.DataFrame,
) -> None:
    sizes = {"HeLLM": small_model, "SASRec": {"MAX_ITEM_LIST_LENGTH": 6}}.get(model, {})
    result = train(model, **sizes, eval_users=7)
    known = histories(interactions)
    recommended = recommend(result, "all", topk=5)
    seen_too = recommend(result.path, list(known), topk=5, exclude_seen=False)
    assert list(recommended) == ["user", "rank", "item", "title", "categories", "score"]
    assert set(recommended["user"]) == set(known)
    opened = result.reopen()
    order = {str(token): place for place, token in enumerate(opened.dataset.item_tokens)}
    for frame, drop in ((recommended, True), (seen_too, False)):
        for user, rows in frame.groupby("user"):
            scores = own_scores(opened, user, known[user], 6)
            left = [item for item in scores if not (drop and item in known[user])]
            best = sorted(left, key=lambda item: (-scores[item], order[item]))[:5]
            assert rows["item"].tolist() == best, user
            assert rows["rank"].tolist() == list(range(1, len(best) + 1))
            np.testing.assert_allclose(rows["score"], [scores[i] for i in best], 1e-4, 1e-6)


@pytest.mark.parametrize("model", ["SASRec", "HeLLM"])
def test_a_known_users_history_gives_that_users_recommendations(
    model: str,
    train: Callable[..., RunResult],
    small_model: dict[str, Any],
    interactions: pd.DataFrame,
) -> None:
    sizes = small_model if model == "HeLLM" else {"MAX_ITEM_LIST_LENGTH": 6}
    recommender = Recommender.open(train(model, **sizes))
    for user, items in histories(interactions).items():
        assert recommender.recent(user, 3) == items[::-1][:3]
        known = recommender.for_users([user], topk=4)
        adhoc = recommender.for_history(items, topk=4)
        assert set(adhoc["user"]) == {""}
        pd.testing.assert_frame_equal(
            adhoc.drop(columns="user"), known.drop(columns="user"), rtol=1e-5
        )
    # A history that is cut reads its last items, and leaves out all of it.
    long = [f"i{number:02d}" for number in range(20)]
    cut, whole = (recommender.for_history(h, 30, False) for h in (long[-6:], long))
    assert cut["item"].tolist() == whole["item"].tolist()
    assert not set(recommender.for_history(long, 30)["item"]) & set(long)


def test_other_columns_of_histories_are_those_of_the_interactions(
    train: Callable[..., RunResult], interactions: pd.DataFrame
) -> None:
    recommender = Recommender.open(train("SASRec", MAX_ITEM_LIST_LENGTH=4))
    dataset, names = recommender.dataset, recommender.dataset.field2id_token["user_id"]
    users = np.flatnonzero(recommender._last_rows >= 0)
    rows = recommender.inputs(users, [recommender.history(user) for user in users])
    ordered = interactions.sort_values(["user_id", "timestamp", "item_id"], kind="stable")
    by_user = dict(iter(ordered.groupby("user_id")))
    assert len(users) == 38  # two have one interaction
    for row, user in enumerate(users):
        frame = by_user[names[user]]
        length = min(len(frame), 4)
        positions = np.arange(len(frame))[-4:].tolist() + [0] * (4 - length)
        assert rows["position_list"][row].tolist() == positions
        items = [dataset.field2token_id["item_id"][i] for i in frame["item_id"]][-4:]
        assert rows["item_id_list"][row].tolist() == items + [0] * (4 - length)
        assert int(rows["item_length"][row]) == length


def test_users_come_as_asked_for_each_once(train: Callable[..., RunResult]) -> None:
    result = train("SASRec", eval_users=2)
    wanted = ["u30", "u00", "u17", "u30"]  # u00 and u17 have one interaction
    recommended = recommend(result, wanted, topk=2)
    assert recommended["user"].tolist() == ["u30", "u30", "u00", "u00", "u17", "u17"]
    pd.testing.assert_frame_equal(
        recommend(result, "u00", topk=2), recommended[2:4].reset_index(drop=True), rtol=1e-5
    )


USERS = ["u30", "u05"]


@pytest.mark.parametrize(
    "users",
    [
        tuple(USERS),
        np.array(USERS),
        np.array(USERS, dtype="S3"),
        pd.Series(USERS, index=[7, 3]),
        pd.Index(USERS),
        pd.Series(USERS, dtype="category"),
        dict.fromkeys(USERS, 1),
        pd.DataFrame({"user_id": USERS, "age": [3, 4]}),
        pd.DataFrame({"age": [3, 4], "user": USERS}),
        pd.DataFrame({"who": USERS}),
        "u30,u05",
        "u30 u05",
    ],
    ids=lambda users: type(users).__name__,
)
def test_users_come_in_any_form_of_a_notebook(bpr: RunResult, users: Any) -> None:
    pd.testing.assert_frame_equal(recommend(bpr, users, topk=2), recommend(bpr, USERS, topk=2))
    assert recommend(bpr, iter(USERS), topk=2)["user"].tolist() == ["u30", "u30", "u05", "u05"]
    assert recommend(bpr, np.array("u30"), topk=2)["user"].tolist() == ["u30", "u30"]


def test_numbers_are_tokens(
    train: Callable[..., RunResult], interactions: pd.DataFrame, make_dataset: Any, tmp_path: Path
) -> None:
    frame = interactions.assign(
        user_id=interactions["user_id"].str[1:].astype(int),
        item_id=interactions["item_id"].str[1:].astype(int),
    )
    make_dataset(tmp_path / "numbers/tiny", frame)
    result = train("SASRec", epochs=1, data_path=str(tmp_path / "numbers"))
    expected = recommend(result, "30", topk=2)
    for users in (30, np.int64(30), 30.0, [30], np.array([30.0]), pd.Series([30])):
        pd.testing.assert_frame_equal(recommend(result, users, topk=np.int64(2)), expected)
    of_history = recommend(result, history=["3", "4", "5"])
    for history in ("3 4 5", "3,4, 5", [3, 4, 5], np.array([3, 4, 5]), pd.Series([3.0, 4, 5])):
        pd.testing.assert_frame_equal(recommend(result, history=history), of_history)


def test_ties_are_broken_by_item_id_and_few_items_may_be_left() -> None:
    scores = torch.tensor([[9.0, 1.0, 2.0, 2.0, 2.0], [9.0, 0.0, 0.0, 5.0, 0.0]])
    rows, ranks, items, values = _best(scores, [np.array([3]), np.array([1, 3])], 3)
    assert rows.tolist() == [0, 0, 0, 1, 1]
    assert ranks.tolist() == [1, 2, 3, 1, 2]
    assert items.tolist() == [2, 4, 1, 2, 4]
    assert values.tolist() == [2, 2, 1, 0, 0]
    assert _best(scores, None, 2)[2].tolist() == [2, 3, 3, 1]
    assert _best(scores, None, 99)[2].tolist() == [2, 3, 4, 1, 3, 1, 2, 4]
    assert scores[0, 0] == 9.0  # as given


def test_mistakes_are_told(train: Callable[..., RunResult], tmp_path: Path) -> None:
    result = train("BPR")

    def fails(match: str, error: type[Exception], *users: Any, **options: Any) -> None:
        with pytest.raises(error, match=match) as caught:
            recommend(options.pop("run", result), *users, **options)
        assert str(caught.value).count(". ") == 0

    fails("no user 'u0O' .did you mean u", DataError, ["u01", "u0O"])
    fails("no user 'a'", DataError, "a b c")
    fails("None is no user token", ConfigError, ["u01", None])
    fails("nan is no|no user 'nan'", DataError, pd.Series(["u01", float("nan")]))
    fails("a table without a column 'user_id'", ConfigError, pd.DataFrame({"a": [1], "b": [2]}))
    fails("topk='5' must be a whole number", ConfigError, "u01", topk="5")
    fails("NoneType is no run; name the directory", RunError, "u01", run=None)
    fails("topk=0 must be at least 1", ConfigError, "u01", topk=0)
    fails("Set either users or history", ConfigError)
    fails("Set either users or history", ConfigError, "u01", history=["i01"])
    fails("users is empty; name at least one", ConfigError, [])
    fails("BPR scores only the users that it was trained on", ConfigError, history=["i01"])
    fails("holds no finished run", RunError, "u01", run=tmp_path)
    sequential = train("SASRec")
    fails("no item 'i31' .did you mean i", DataError, run=sequential, history=["i01", "i31"])
    fails("The history is empty", ConfigError, run=sequential, history=[])


def test_models_that_read_more_than_items_say_what(train: Callable[..., RunResult]) -> None:
    result = train("HGN", epochs=1)  # has vectors of users
    assert len(recommend(result, ["u01", "u00"], topk=3)) == 6
    with pytest.raises(ConfigError, match="HGN reads 'user_id', which this history lacks"):
        recommend(result, history=["i01", "i02"])
    drawn = train("DIEN", epochs=1)  # reads items drawn beside each history
    assert len(recommend(drawn, ["u01", "u05"], topk=3)) == 6
    with pytest.raises(ConfigError, match=r"DIEN reads '.*', which this history lacks"):
        recommend(drawn, history=["i01", "i02"])


def test_the_function_stays_the_function(train: Callable[..., RunResult]) -> None:
    import recbole_hellm
    import recbole_hellm.runs.recommending as module

    assert {"run", "load_run", "recommend"} <= {*dir(recbole_hellm)}
    assert recbole_hellm.recommend is module.recommend
    assert recbole_hellm.recommend is recommend
