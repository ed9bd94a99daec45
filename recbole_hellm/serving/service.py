"""Finished runs that answer requests: opened once, each with one thread that scores."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from recbole_hellm.config.settings import names, require
from recbole_hellm.data.features.item_metadata import IMAGES, ItemMetadata, Picture
from recbole_hellm.errors import DataError, HellmError, RunError
from recbole_hellm.runs.recommending import Recommender
from recbole_hellm.runs.results import RunResult, load_run, run_names
from recbole_hellm.serving.explaining import nearest_in_history, unit_item_vectors
from recbole_hellm.serving.limits import LONGEST_HISTORY, MOST_WAITING, REASONS
from recbole_hellm.serving.schemas import (
    Answer,
    Item,
    Question,
    Reason,
    Recommendation,
    RunAnswer,
    RunInfo,
)
from recbole_hellm.serving.search import SearchIndex
from recbole_hellm.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

SAME = {
    "dataset": "dataset",
    "candidates": "items",
    "split": "interactions",
}
"""What the records of runs that are shown together must share, and what it is called."""


class UnknownTokenError(DataError):
    """A request names a user or an item that the dataset does not have."""


class OverloadError(HellmError):
    """More requests are waiting than may wait."""


def load_runs(paths: Iterable[str | Path] | str) -> list[RunResult]:
    """Finished runs of one dataset with the same items.

    Parameters
    ----------
    paths : iterable of path or str
        Directories; a text may name several, separated by commas.

    Raises
    ------
    ConfigError
        If none is named, or one twice.
    RunError
        If one is not finished, or they do not belong together.
    """
    runs = [load_run(path) for path in (names(paths) if isinstance(paths, str) else paths)]
    require(bool(runs), "There is no run to serve; name the directory of a finished one.")
    first = runs[0]
    for place, run in enumerate(runs):
        require(
            all(run.path.resolve() != other.path.resolve() for other in runs[:place]),
            f"{run.path} is named twice; name each run once.",
        )
        for key, called in SAME.items():
            if run.record[key] != first.record[key]:
                raise RunError(
                    f"{first.path} and {run.path} have different {called} and cannot be shown side "
                    "by side; serve them one by one."
                )
    return runs


@dataclasses.dataclass(frozen=True)
class ServedRun:
    """An opened run with a thread of its own.

    A model is not made for several threads at once. Its requests wait in line, first come, first
    served.

    Attributes
    ----------
    name : str
    directory : Path
    recommender : Recommender
    vectors : ndarray, shape [N + 1, d], or None
        Item vectors of length 1 by internal id.
    worker : ThreadPoolExecutor
    """

    name: str
    directory: Path
    recommender: Recommender
    vectors: np.ndarray | None
    worker: ThreadPoolExecutor

    @classmethod
    def open(cls, name: str, run: RunResult, settings: ServeSettings) -> ServedRun:
        """Restore a finished run.

        Raises
        ------
        HellmError
            If it cannot be restored.
        """
        recommender = Recommender.open(
            run, settings.data_path, settings.backbone, device=settings.device
        )
        vectors = unit_item_vectors(recommender.opened.model, recommender.dataset.item_num)
        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"score {name}")
        return cls(name, run.path, recommender, vectors, worker)

    @property
    def info(self) -> RunInfo:
        """What clients are told of it."""
        return RunInfo(
            run=self.name,
            model=str(self.recommender.opened.config["model"]),
            directory=str(self.directory),
            reads_histories=self.recommender.reads_histories,
            explains=self.vectors is not None,
        )

    def submit(self, question: Question) -> Future[list[dict[str, Any]] | str]:
        """Let the run's thread answer; see :meth:`answer`."""
        return self.worker.submit(self.answer, question)

    def answer(self, question: Question) -> list[dict[str, Any]] | str:
        """Rows of recommendations, or in one sentence why there are none.

        A row has rank, item, score and because, pairs of an item and its cosine.
        """
        recommender = self.recommender
        if question.user is None and not recommender.reads_histories:
            model = recommender.opened.config["model"]
            return (
                f"{model} scores only the users that it was trained on, so it recommends nothing "
                "for a composed history."
            )
        try:
            if question.user is not None:
                frame = recommender.for_users([question.user], question.topk, question.exclude_seen)
            else:
                frame = recommender.for_history(
                    question.history or (), question.topk, question.exclude_seen
                )
            history = self._read(question)
        except HellmError as error:
            return str(error)
        if frame.empty:
            return "No items are left to recommend."
        ids = recommender.ids("item", frame["item"])
        columns = (frame[name].tolist() for name in ("rank", "item", "score"))
        rows = zip(*columns, self._reasons(ids, history), strict=True)
        return [dict(zip(("rank", "item", "score", "because"), row, strict=True)) for row in rows]

    def _read(self, question: Question) -> np.ndarray:
        """Ids of the items of the history; of sequential models, of the last ones they read."""
        recommender = self.recommender
        if question.user is None:
            history = recommender.ids("item", question.history or ())
        else:
            history = recommender.history(int(recommender.ids("user", [question.user])[0]))
        if recommender.reads_histories:
            return history[-int(recommender.opened.config["MAX_ITEM_LIST_LENGTH"]) :]
        return history

    def _reasons(self, ids: np.ndarray, history: np.ndarray) -> list[list[tuple[str, float]]]:
        if self.vectors is None or len(history) == 0:
            return [[] for _ in ids]
        dataset = self.recommender.dataset
        tokens = dataset.field2id_token[dataset.iid_field]
        near = nearest_in_history(self.vectors, ids, history, REASONS)
        return [[(str(tokens[item]), cosine) for item, cosine in of_item] for of_item in near]


class Service:
    """Answers for one or several runs of a dataset.

    Parameters
    ----------
    runs : sequence of ServedRun
        At least one; see :func:`load_runs`.
    """

    def __init__(self, runs: Sequence[ServedRun]) -> None:
        self.runs = list(runs)
        self.recommender = runs[0].recommender
        self.metadata: ItemMetadata = self.recommender.metadata
        self.dataset_name = str(self.recommender.opened.config["dataset"])
        dataset = self.recommender.dataset
        self.user_tokens = [str(token) for token in dataset.user_tokens]
        self.item_tokens = [str(token) for token in dataset.item_tokens]
        self._known = {"user": {*self.user_tokens}, "item": {*self.item_tokens}}
        self.users = SearchIndex(self.user_tokens)
        self.items = SearchIndex(self.item_tokens, self.metadata.titles)
        folder = self.recommender.opened.config.dataset_directory / IMAGES
        self._images = folder.resolve()
        self._described: dict[str, Item] = {}
        self._waiting = 0

    @classmethod
    def open(cls, runs: Sequence[RunResult], settings: ServeSettings) -> Service:
        """Restore runs; see :func:`load_runs` and :meth:`ServedRun.open`."""
        called = run_names(runs)
        opened = []
        for run in runs:
            logger.info("Opening %s", run.path)
            opened.append(ServedRun.open(called[str(run.path)], run, settings))
        return cls(opened)

    def close(self) -> None:
        """End the threads of the runs."""
        for run in self.runs:
            run.worker.shutdown(wait=False, cancel_futures=True)

    @property
    def reads_histories(self) -> bool:
        """Whether a run can score a composed history."""
        return any(run.recommender.reads_histories for run in self.runs)

    async def answer(self, question: Question) -> Answer:
        """What every run recommends.

        Raises
        ------
        UnknownTokenError
            If the user or an item is not known.
        OverloadError
            If too many requests are waiting.
        """
        history = self._history(question)
        if self._waiting >= MOST_WAITING:
            raise OverloadError("Too many requests are waiting; try again in a few seconds.")
        self._waiting += 1
        try:
            answers = await asyncio.gather(
                *(asyncio.wrap_future(run.submit(question)) for run in self.runs)
            )
            return await asyncio.to_thread(self._presented, question, history, answers)
        finally:
            self._waiting -= 1

    def _history(self, question: Question) -> list[str]:
        if question.user is None:
            for token in question.history or ():
                self.check("item", token)
            return list(question.history or ())
        self.check("user", question.user)
        # A lookup in an array, for which the model's thread is not needed.
        user = int(self.recommender.ids("user", [question.user])[0])
        dataset = self.recommender.dataset
        tokens = dataset.field2id_token[dataset.iid_field][self.recommender.history(user)]
        return [str(token) for token in tokens]

    def check(self, kind: str, token: str) -> None:
        """Raise :class:`UnknownTokenError` unless there is such a user or item."""
        if token not in self._known[kind]:
            shown = token if len(token) <= 40 else token[:40] + "…"
            raise UnknownTokenError(
                f"The dataset '{self.dataset_name}' has no {kind} '{shown}'; search for one by "
                f"{'the start of a token' if kind == 'user' else 'words of a title'}."
            )

    def _presented(
        self,
        question: Question,
        history: list[str],
        answers: Sequence[list[dict[str, Any]] | str],
    ) -> Answer:
        shown = []
        for run, answer in zip(self.runs, answers, strict=True):
            note = answer if isinstance(answer, str) else None
            rows = [] if isinstance(answer, str) else answer
            recommendations = [self._recommendation(row) for row in rows]
            shown.append(
                RunAnswer(
                    run=run.name,
                    recommendations=recommendations,
                    note=note,
                    explains=run.vectors is not None,
                )
            )
        items = [self.item(token) for token in history[-LONGEST_HISTORY:]]
        return Answer(user=question.user, history=items, history_length=len(history), runs=shown)

    def _recommendation(self, row: dict[str, Any]) -> Recommendation:
        reasons = [
            Reason(item=token, title=self.metadata.title(token), similarity=round(cosine, 4))
            for token, cosine in row["because"]
        ]
        return Recommendation(
            **self.item(row["item"]).model_dump(),
            rank=int(row["rank"]),
            score=float(row["score"]),
            because=reasons,
        )

    def item(self, token: str) -> Item:
        """What is shown of an item; whether it has a picture is looked up once."""
        if token not in self._described:
            picture = f"/pictures/{quote(token, safe='')}" if self.picture(token) else None
            self._described[token] = Item(
                item=token,
                title=self.metadata.title(token),
                categories=self.metadata.category(token),
                picture=picture,
            )
        return self._described[token]

    def picture(self, token: str) -> Picture | None:
        """An item's picture in the dataset's folder of pictures, which a link must not leave."""
        if token not in self._known["item"]:
            return None
        picture = self.metadata.picture(token)
        if picture is None or not picture.path.resolve().is_relative_to(self._images):
            return None
        return picture
