"""What is answered, against the runs' own recommendations."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm import recommend
from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.runs.results import RunResult
from recbole_hellm.serving import service as module
from recbole_hellm.serving.explaining import NEAR
from recbole_hellm.serving.schemas import Answer, Question
from recbole_hellm.serving.service import OverloadError, Service, UnknownTokenError, load_runs


def ask(service: Service, **asked: Any) -> Answer:
    return asyncio.run(service.answer(Question.model_validate(asked)))


@pytest.mark.parametrize("seen", [True, False])
def test_a_user_gets_what_recommend_gives(
    service: Service, shown_runs: dict[str, RunResult], interactions: pd.DataFrame, seen: bool
) -> None:
    answer = ask(service, user="u39", topk=7, exclude_seen=not seen)
    assert [run.run for run in answer.runs] == ["SASRec", "LightGCN", "Pop"]
    for of_run in answer.runs:
        frame = recommend(shown_runs[of_run.run], "u39", topk=7, exclude_seen=not seen)
        assert [one.item for one in of_run.recommendations] == frame["item"].tolist()
        scores = [one.score for one in of_run.recommendations]
        np.testing.assert_allclose(scores, frame["score"], rtol=1e-5)
        assert of_run.note is None
    own = interactions[interactions["user_id"] == "u39"].sort_values(["timestamp", "item_id"])
    assert [item.item for item in answer.history] == own["item_id"].tolist()
    assert answer.history_length == len(own)


def test_a_history_is_scored_by_models_that_read_histories(
    service: Service, shown_runs: dict[str, RunResult]
) -> None:
    history = [f"i{n:02d}" for n in range(10)]
    answer = ask(service, history=history, topk=4)
    sequential, *general = answer.runs
    frame = recommend(shown_runs["SASRec"], history=history, topk=4)
    assert [one.item for one in sequential.recommendations] == frame["item"].tolist()
    for of_run in general:
        assert of_run.recommendations == []
        assert of_run.note == (
            f"{of_run.run} scores only the users that it was trained on, so it recommends nothing "
            "for a composed history."
        )
    assert service.reads_histories


def test_reasons_are_items_that_the_model_has_read(service: Service) -> None:
    history = [f"i{n:02d}" for n in range(10)]
    sequential = ask(service, history=history, topk=20).runs[0]
    run = service.runs[0]
    assert run.vectors is not None
    named = {reason.item for one in sequential.recommendations for reason in one.because}
    assert named and named <= {*history[-6:]}  # MAX_ITEM_LIST_LENGTH
    ids = run.recommender.dataset.field2token_id["item_id"]
    for one in sequential.recommendations:
        cosines = {h: float(run.vectors[ids[one.item]] @ run.vectors[ids[h]]) for h in history[-6:]}
        best = sorted((c for c in cosines.values() if c >= NEAR), reverse=True)[:3]
        assert [reason.similarity for reason in one.because] == pytest.approx(best, abs=1e-4)
    pop = ask(service, user="u39").runs[2]
    assert not pop.explains and not any(one.because for one in pop.recommendations)


def test_nothing_is_left_where_all_is_seen(service: Service) -> None:
    answer = ask(service, history=[f"i{n:02d}" for n in range(30)])
    assert answer.runs[0].note == "No items are left to recommend."


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"user": "nobody"},
            "The dataset 'tiny' has no user 'nobody'; search for one by the start of a token.",
        ),
        (
            {"history": ["i01", "x" * 60]},
            f"The dataset 'tiny' has no item '{'x' * 40}…'; search for one by words of a title.",
        ),
        (
            {"user": "[PAD]"},
            "The dataset 'tiny' has no user '[PAD]'; search for one by the start of a token.",
        ),
    ],
)
def test_what_is_not_known(service: Service, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UnknownTokenError) as error:
        ask(service, **asked)
    assert str(error.value) == told


def test_pictures_are_those_in_the_datasets_folder(service: Service) -> None:
    assert service.item("i01").picture == "/pictures/i01"
    # A link out of the folder, and no item at all.
    assert service.metadata.picture("i02") is not None
    assert service.item("i02").picture is None
    for token in ("i04", "../secret", "secret", "[PAD]", ""):
        assert service.picture(token) is None
    assert service.item("i05").title == "Café table"


def test_a_models_requests_are_answered_in_their_order(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, order = threading.Event(), threading.Event(), []
    run = service.runs[0]
    threads = set()

    def slow(self: Any, question: Question) -> str:
        threads.add(threading.current_thread().name)
        begun.set()
        assert go.wait(10)
        order.append(question.topk)
        return "Done."

    monkeypatch.setattr(type(run), "answer", slow)
    futures = [run.submit(Question.model_validate({"user": "u39", "topk": n})) for n in range(1, 9)]
    assert begun.wait(10)
    go.set()
    assert [future.result(10) for future in futures] == ["Done."] * 8
    assert order == list(range(1, 9)) and len(threads) == 1


def test_only_so_many_requests_may_wait(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2)

    async def three() -> list[Any]:
        question = Question.model_validate({"user": "u39"})
        return await asyncio.gather(
            *(service.answer(question) for _ in range(3)), return_exceptions=True
        )

    outcomes = asyncio.run(three())
    assert [type(outcome) for outcome in outcomes] == [Answer, Answer, OverloadError]
    assert isinstance(ask(service, user="u39"), Answer)  # and others are answered after that


def test_runs_must_belong_together(shown_runs: dict[str, RunResult], monkeypatch: Any) -> None:
    first, second = list(shown_runs.values())[:2]
    assert [run.path for run in load_runs(f"{first.path},{second.path}")] == [
        first.path,
        second.path,
    ]
    with pytest.raises(ConfigError, match=r"is named twice; name each run once\.$"):
        load_runs([first.path, first.path.parent])
    with pytest.raises(ConfigError, match=r"^There is no run to serve; name the directory"):
        load_runs("")
    with pytest.raises(RunError, match="holds no finished run"):
        load_runs([first.path.parent.parent])
    for key, called in (("dataset", "dataset"), ("candidates", "items"), ("split", "interactions")):
        other = dataclasses.replace(second, record=second.record | {key: "another"})
        given = {first.path: first, second.path: other}
        monkeypatch.setattr(module, "load_run", given.__getitem__)
        with pytest.raises(RunError) as error:
            load_runs([first.path, second.path])
        assert str(error.value) == (
            f"{first.path} and {second.path} have different {called} and cannot be shown side by "
            "side; serve them one by one."
        )


def test_a_run_that_cannot_be_restored_is_told(shown_runs: dict[str, RunResult]) -> None:
    from recbole_hellm.serving.settings import ServeSettings

    with pytest.raises(RunError, match="data_path"):
        Service.open([shown_runs["Pop"]], ServeSettings(data_path=str(Path("nowhere"))))
