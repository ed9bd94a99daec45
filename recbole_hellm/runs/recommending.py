"""Recommendations of a finished run for inspection.

An evaluation hides a user's last items and ranks them. A recommendation predicts the next item: it
uses the user's full history, test item included.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_hellm.config.devices import AUTO
from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.data.interactions.atomic_files import atomic_settings
from recbole_hellm.data.interactions.splits import POSITION
from recbole_hellm.errors import ConfigError, DataError, RunError, nearest
from recbole_hellm.evaluation.evaluator import users_at_once
from recbole_hellm.progress import progress_bar
from recbole_hellm.runs.restoring import ReopenedRun
from recbole_hellm.runs.results import RunResult, load_run

COLUMNS = ("user", "rank", "item", "title", "categories", "score")
ALL_USERS = "all"


def recommend(
    run: str | Path | RunResult,
    users: str | Iterable[Any] | None = None,
    *,
    history: str | Iterable[Any] | None = None,
    topk: int = 10,
    exclude_seen: bool = True,
    data_path: str | Path | None = None,
    backbone: str | None = None,
    device: str = AUTO,
    show_progress: bool = False,
) -> pd.DataFrame:
    """The items that a finished run's model recommends.

    A known user is scored with the full history: a sequential or LLM model reads the training,
    validation and test items, and all of them count as seen items, which are left out. An
    evaluation, in contrast, shows the model only the items before the held-out item, and always
    ranks that item. A general model's user vectors come from training interactions alone.

    Parameters
    ----------
    run : path or RunResult
        A finished run of any model; or a model's folder of runs, for the newest run in it.
    users : str or iterable, optional
        User tokens, or ``"all"``: a text, which may name several separated by commas, a list, an
        array, a Series, or a DataFrame with the column ``user`` or that of the dataset's users.
    history : str or iterable, optional
        Item tokens of a new user, oldest first; replaces `users`, for sequential and LLM models.
        The model reads only the last ``MAX_ITEM_LIST_LENGTH`` items.
    topk : int
        Items per user; fewer if fewer remain.
    exclude_seen : bool
        Leave out items of the user's history.
    data_path, backbone : optional
        New locations of the dataset and of a frozen backbone, if they have moved; see
        :meth:`RunResult.restore`.
    device : str
        Where to compute: auto, cpu, cuda, cuda:1 or mps.

    Returns
    -------
    DataFrame
        Columns user, rank (from 1), item, title, categories, score; users in the order of
        `users`. Equal scores are ranked by item id. ``user`` is '' for `history`.

    Raises
    ------
    ConfigError
        Unless exactly one of `users` and `history` is set, or if the model cannot score a history.
    DataError
        If a user or an item is unknown.
    RunError
        If the run cannot be restored.

    Examples
    --------
    >>> from recbole_hellm import recommend, run
    >>> result = run("Pop", "sample", show_progress=False)
    >>> recommend(result, "U0001", topk=3)["rank"].tolist()
    [1, 2, 3]
    """
    if (users is None) == (history is None):
        raise ConfigError("Set either users or history, the item tokens of one user.")
    if isinstance(topk, bool) or not isinstance(topk, (int, np.integer)):
        raise ConfigError(f"topk={topk!r} must be a whole number.")
    recommender = Recommender.open(run, data_path, backbone, device=device)
    if history is not None:
        items = recommender.tokens("item", history)
        return recommender.for_history(items, topk, exclude_seen)
    if isinstance(users, str) and users == ALL_USERS:
        tokens = [str(token) for token in recommender.dataset.user_tokens]
    else:
        tokens = recommender.tokens("user", users)
    return recommender.for_users(tokens, topk, exclude_seen, show_progress)


@dataclasses.dataclass(frozen=True)
class Recommender:
    """A restored run that recommends for many users.

    Attributes
    ----------
    opened : ReopenedRun
    metadata : ItemMetadata
        Titles and categories of the dataset's items.
    """

    opened: ReopenedRun
    metadata: ItemMetadata

    @classmethod
    def open(
        cls,
        run: str | Path | RunResult,
        data_path: str | Path | None = None,
        backbone: str | None = None,
        images: Path | None = None,
        device: str = AUTO,
    ) -> Recommender:
        """Restore a finished run; see :func:`recommend`."""
        result = run if isinstance(run, RunResult) else load_run(run)
        opened = result.reopen(data_path, backbone, device)
        config = opened.config
        folder, atomic = config.dataset_directory, atomic_settings(config)
        return cls(opened, ItemMetadata.read(folder, config["dataset"], atomic, images))

    @property
    def dataset(self) -> Any:
        """All interactions; maps between tokens and the model's ids."""
        return self.opened.dataset

    @property
    def reads_histories(self) -> bool:
        """Whether the model scores histories rather than the users it was trained on."""
        return self.opened.config["ITEM_LIST_LENGTH_FIELD"] in self.opened.evaluator.inputs["test"]

    def for_users(
        self,
        tokens: Iterable[str],
        topk: int = 10,
        exclude_seen: bool = True,
        show_progress: bool = False,
    ) -> pd.DataFrame:
        """Recommendations for known users, each once; see :func:`recommend`."""
        users = self.ids("user", dict.fromkeys(tokens))
        size = users_at_once(self.opened.config, self.opened.model)
        bar = progress_bar(show=show_progress, total=len(users), unit="user", leave=False)
        parts = []
        for start in range(0, len(users), size):
            chunk = users[start : start + size]
            # Users with one interaction have item columns only; see `inputs`.
            for group in (chunk[self._last_rows[chunk] >= 0], chunk[self._last_rows[chunk] < 0]):
                if len(group):
                    histories = [self.history(user) for user in group]
                    scores = self.scores(self.inputs(group, histories))
                    ranked = _best(scores, histories if exclude_seen else None, topk)
                    parts.append((group, *ranked))
            bar.update(len(chunk))
        bar.close()
        names = self.dataset.field2id_token[self.dataset.uid_field]
        frames = [self._frame(names[group[rows]], *ranked) for group, rows, *ranked in parts]
        if not frames:
            raise ConfigError("users is empty; name at least one user.")
        order = {names[user]: index for index, user in enumerate(users)}
        return pd.concat(frames).sort_values(
            "user", kind="stable", key=lambda column: column.map(order), ignore_index=True
        )

    def for_history(
        self, items: Sequence[str], topk: int = 10, exclude_seen: bool = True
    ) -> pd.DataFrame:
        """Recommendations for a history of item tokens, oldest first; see :func:`recommend`."""
        model = self.opened.config["model"]
        if not self.reads_histories:
            raise ConfigError(
                f"{model} scores only the users that it was trained on, not histories; name a "
                "known user, or use a sequential or LLM model."
            )
        ids = self.ids("item", items)
        if len(ids) == 0:
            raise ConfigError("The history is empty; name at least one item.")
        rows, *ranked = _best(
            self.scores(self.inputs(None, [ids])), [ids] if exclude_seen else None, topk
        )
        return self._frame(np.full(len(rows), "", dtype=object), *ranked)

    def recent(self, user: str, count: int = 5) -> list[str]:
        """The last `count` items of a known user, newest first."""
        (user_id,) = self.ids("user", [user])
        return self._tokens(self.history(user_id)[::-1][:count]).tolist()

    def ids(self, kind: Literal["user", "item"], tokens: Iterable[str]) -> np.ndarray:
        """Internal ids of tokens.

        Raises
        ------
        DataError
            If a token is unknown; the message names the nearest tokens.
        """
        field = self.dataset.uid_field if kind == "user" else self.dataset.iid_field
        id_of_token = self.dataset.field2token_id[field]
        ids = []
        for token in map(str, tokens):
            number = id_of_token.get(token, 0)
            if number == 0:
                # Comparing with each of millions of tokens would take long.
                like = [name for name in id_of_token if abs(len(name) - len(token)) <= 2]
                raise DataError(
                    f"The dataset '{self.opened.config['dataset']}' has no {kind} '{token}'"
                    f"{nearest(token, like)} name one of its {kind}s."
                )
            ids.append(number)
        return np.array(ids, dtype=np.int64)

    def tokens(self, kind: Literal["user", "item"], values: Any) -> list[str]:
        """The tokens that are meant by whatever a notebook holds; see :func:`recommend`.

        Raises
        ------
        ConfigError
            If these are no tokens.
        """
        field = self.dataset.uid_field if kind == "user" else self.dataset.iid_field
        known = self.dataset.field2token_id[field]
        if isinstance(values, pd.DataFrame):
            columns = [name for name in (field, kind, *values.columns[:1]) if name in values]
            if not columns or (len(values.columns) > 1 and columns[0] not in (field, kind)):
                raise ConfigError(
                    f"The {kind}s are a table without a column '{field}'; name its column, as in "
                    f"frame['{field}']."
                )
            values = values[columns[0]]
        if isinstance(values, str) and values not in known:
            # As on the command line; a single unknown token is told as it is.
            values = values.split("," if "," in values else None) or [values]
        if isinstance(values, (np.ndarray, torch.Tensor)):
            values = values.tolist()
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            values = [values]
        return [_token(kind, value, known) for value in values]

    # Inputs -------------------------------------------------------------------------------------

    def _tokens(self, items: np.ndarray) -> np.ndarray:
        return self.dataset.field2id_token[self.dataset.iid_field][items]

    def history(self, user: int) -> np.ndarray:
        """All item ids of a user id, oldest first."""
        histories = self.dataset.histories
        return histories.items[histories.offsets[user] : histories.offsets[user + 1]]

    def inputs(self, users: np.ndarray | None, histories: list[np.ndarray]) -> Interaction:
        """The model's input: users, and for some models histories, as in evaluation.

        Unknown columns are left out: a new user has item columns only, and a user with a single
        interaction has no row in RecBole's sequential data and so no other columns.
        """
        config, columns = self.opened.config, {}
        if users is not None:
            columns[self.dataset.uid_field] = torch.from_numpy(users)
        if not self.reads_histories:
            return self.dataset.join(Interaction(columns))
        limit, suffix = config["MAX_ITEM_LIST_LENGTH"], config["LIST_SUFFIX"]
        items = torch.zeros(len(histories), limit, dtype=torch.int64)
        lengths = torch.tensor([min(len(history), limit) for history in histories])
        for row, history in enumerate(histories):
            items[row, : lengths[row]] = torch.from_numpy(history[-limit:])
        columns[config["ITEM_LIST_LENGTH_FIELD"]] = lengths
        if users is not None and (self._last_rows[users] >= 0).all():
            columns |= self._other_lists(self._last_rows[users])
        columns[self.dataset.iid_field + suffix] = items
        return self.dataset.join(Interaction(columns))

    def _other_lists(self, rows: np.ndarray) -> dict[str, Tensor]:
        """List columns of full histories: the lists before the last interaction, plus its value."""
        config, feat = self.opened.config, self.dataset.inter_feat[rows]
        suffix, lengths = config["LIST_SUFFIX"], feat[config["ITEM_LIST_LENGTH_FIELD"]]
        columns = {}
        for name in feat.columns:
            if not name.endswith(suffix):
                continue
            lists, field = feat[name], name.removesuffix(suffix)
            longer = torch.cat([lists, torch.zeros_like(lists[:, :1])], dim=1)
            if field in feat:  # sampled negatives have list columns only
                longer[torch.arange(len(rows)), lengths] = feat[field].to(longer.dtype)
            full = (lengths == lists.shape[1]).view(-1, *[1] * (lists.dim() - 1))
            columns[name] = torch.where(full, longer[:, 1:], longer[:, :-1])
        return columns

    @functools.cached_property
    def _last_rows(self) -> np.ndarray:
        """Row of each user's last interaction in RecBole's data, or -1, shape [n_users]."""
        rows = np.full(self.dataset.user_num, -1, dtype=np.int64)
        if not self.reads_histories:
            rows[:] = 0  # unused
            return rows
        feat = self.dataset.inter_feat
        users = feat[self.dataset.uid_field].numpy()
        order = np.argsort(feat[POSITION].numpy(), kind="stable")
        rows[users[order]] = order  # the last assignment wins
        return rows

    # Scores -------------------------------------------------------------------------------------

    @torch.no_grad()
    def scores(self, rows: Interaction) -> Tensor:
        """The model's scores of :meth:`inputs`, [B, N + 1] on the CPU; column 0 may be any."""
        config = self.opened.config
        try:
            scores = self.opened.evaluator.score(self.opened.model, rows.to(config["device"]))
        except KeyError as error:
            column = error.args[0] if error.args else None
            if column in rows.columns or column not in self.opened.evaluator.inputs["test"]:
                raise
            raise ConfigError(
                f"{config['model']} reads '{column}', which this history lacks; name a user with "
                "several interactions."
            ) from error
        if bool(scores[:, 1:].isnan().any()):
            raise RunError(f"{config['model']} gives NaN scores; train it with a lower rate.")
        return scores.float().cpu()

    def _frame(self, users: np.ndarray, ranks: Any, items: Any, scores: Any) -> pd.DataFrame:
        described = self.metadata.describe(self._tokens(items).tolist())
        frame = described.assign(user=users, rank=ranks, score=scores)
        return frame[list(COLUMNS)]


def _token(kind: str, value: Any, known: Mapping[str, int]) -> str:
    """A token as the dataset has it: pandas makes numbers of tokens, and fractions of numbers."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return value if value in known else value.strip()
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        if str(value) not in known and float(value).is_integer():
            return str(int(value))
        return str(value)
    raise ConfigError(f"{value!r} is no {kind} token; name {kind}s by text or number.")


def _best(
    scores: Tensor, seen: list[np.ndarray] | None, topk: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, ranks, items and scores of the best items of each row; equal scores by item id.

    Parameters
    ----------
    scores : Tensor, shape [B, N + 1]
    seen : list of B arrays of item ids, optional
        Items to leave out; padding is always left out.
    topk : int
    """
    if topk < 1:
        raise ConfigError(f"topk={topk} must be at least 1.")
    masked = scores.clone()
    masked[:, 0] = -torch.inf
    for row, items in enumerate(seen or ()):
        masked[row, torch.from_numpy(items)] = -torch.inf
    least = masked.topk(min(topk, masked.shape[1])).values[:, -1:]
    rows, items = (
        indices.numpy() for indices in torch.where((masked >= least) & (masked > -torch.inf))
    )
    values = masked.numpy()[rows, items]
    order = np.lexsort((items, -values, rows))
    rows, items, values = rows[order], items[order], values[order]
    starts = np.searchsorted(rows, np.arange(len(scores)))
    ranks = np.arange(len(rows)) - starts[rows] + 1
    within = ranks <= topk
    return rows[within], ranks[within], items[within], values[within]
