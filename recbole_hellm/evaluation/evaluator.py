"""One evaluator for every model: score users in chunks, mask, rank, summarise."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from torch import Tensor

from recbole_hellm.errors import ConfigError, DivergenceError, RunError
from recbole_hellm.evaluation.metrics import MetricSet
from recbole_hellm.evaluation.outcomes import Outcomes
from recbole_hellm.evaluation.ranking import Ranks, count_above, mask_known
from recbole_hellm.evaluation.recommended import Catalogue, RecommendedLists
from recbole_hellm.evaluation.sampling import SampledCandidates, count_among
from recbole_hellm.progress import progress_bar
from recbole_hellm.training.distributed import current

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Evaluation:
    """Outcome of scoring one phase once.

    Attributes
    ----------
    phase : {"valid", "test"}
    metrics : dict
        masking -> ``metric@k`` -> value in [0, 1], not rounded.
    ranks : dict
        masking -> :class:`Ranks`.
    topk : ndarray of int64, shape [R, K], or None
        Internal item ids recommended under the first masking, best first, for each row that is
        evaluated; with ``save_topk``, on test.
    """

    phase: str
    metrics: dict[str, dict[str, float]]
    ranks: dict[str, Ranks]
    topk: np.ndarray | None = None


class Evaluator:
    """Full ranking over all items for any RecBole model, unless sampled candidates are asked for.

    Parameters
    ----------
    config : HellmConfig
    dataset : CanonicalMixin
        The loaded dataset; its histories define the masks.
    parts : dict of str to Dataset
        ``valid`` and ``test`` splits, whose rows are the models' inputs.

    Raises
    ------
    ConfigError
        If a metric is unknown or lacks what it needs, or lists are longer than the catalogue.
    """

    def __init__(self, config: Any, dataset: Any, parts: dict[str, Any]) -> None:
        self.config = config
        self.dataset = dataset
        self.metrics = MetricSet.of(config["metrics"], sorted(config["topk"]))
        self.catalogue = Catalogue.of(dataset)
        longest = max(config["save_topk"], self._list_length)
        if longest >= dataset.item_num:
            raise ConfigError(
                f"A list of {longest} items needs more than the {dataset.item_num - 1} items there "
                "are; lower save_topk and topk."
            )
        self.rows = {phase: dataset.target_rows(phase) for phase in parts}
        self.metrics.check(self.catalogue, min(map(len, self.rows.values())))
        self.inputs = {phase: self._inputs(phase, part) for phase, part in parts.items()}
        self.sampled = SampledCandidates.of(dataset)
        # Some models read the names of what RecBole's transform adds, so it is made before them.
        self.transform = construct_transform(config)
        self._items = None

    @property
    def _list_length(self) -> int:
        """Items of each list that the metrics look at."""
        return max(self.metrics.topk) if self.metrics.listed.metrics else 0

    def _inputs(self, phase: str, part: Any) -> Interaction:
        """User, user features and history of each row that is evaluated.

        Nothing else of a row may reach a model: it belongs to the interaction to be predicted.
        """
        rows = part.inter_feat[self.dataset.part_rows(part, phase)]
        history = {self._length_field, *(k for k in rows.columns if k.endswith(self._suffix))}
        shown = {k: rows[k] for k in rows.columns if k in {part.uid_field, *history}}
        return part.join(Interaction(shown))

    @torch.no_grad()
    def evaluate(
        self, model: Any, phase: str, maskings: Sequence[str], show_progress: bool = False
    ) -> Evaluation:
        """Score every evaluated row once and rank under each of `maskings`.

        Several processes deal the chunks out among them; each learns the outcome of all.

        Returns
        -------
        Evaluation

        Raises
        ------
        RunError
            If the model's scores hold NaN or have the wrong shape.
        """
        model.eval()
        inputs = self.inputs[phase]
        count = len(inputs[self.dataset.uid_field])
        # Lists cost as much as ranks, and those of validation are never saved.
        saved = self.config["save_topk"] if phase == "test" else 0
        length = max(saved, self._list_length)
        processes = current()
        outcomes = Outcomes.empty(self.rows[phase], len(maskings), length)
        bar = progress_bar(
            show=show_progress, total=count, desc=f"{phase:>5}", unit="user", leave=False
        )
        for dealt in self._rounds(inputs, users_at_once(self.config, model), processes.size):
            # Where none is left for this process it scores one with the others, for nothing.
            mine = processes.rank < len(dealt)
            chunk = dealt[processes.rank if mine else 0]
            outcome = self._rank(model, phase, chunk, maskings, length)
            if mine:
                outcomes.put(chunk, *outcome)
            bar.update(sum(map(len, dealt)))
        bar.close()
        outcomes = outcomes.shared(processes)
        ranks = {masking: outcomes.ranks(number) for number, masking in enumerate(maskings)}
        metrics = {
            masking: self.metrics.of_ranks(ranks_under) for masking, ranks_under in ranks.items()
        }
        if self.metrics.listed.metrics:
            users = self.rows[phase].users
            recommended = RecommendedLists.of(
                self.dataset, self.catalogue, outcomes.lists, users, phase
            )
            metrics[maskings[0]].update(self.metrics.of_lists(recommended))
        return Evaluation(phase, metrics, ranks, outcomes.lists[:, :saved] if saved else None)

    def _rank(
        self, model: Any, phase: str, chunk: np.ndarray, maskings: Sequence[str], length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts of some rows' targets under each masking, and lists under the first."""
        inputs, device = self.inputs[phase][chunk], self.config["device"]
        rows, histories = self.rows[phase], self.dataset.histories
        owners, items = rows.targets(chunk)
        known = []
        for masking in maskings:
            masked_rows, masked_items = map(torch.from_numpy, rows.known(histories, chunk, masking))
            known.append((masked_rows.to(device), masked_items.to(device)))
        scores = self.score(model, inputs.to(device))
        targets, places = torch.from_numpy(items).to(device), torch.from_numpy(owners).to(device)
        single = len(items) == len(chunk)
        try:
            if self.sampled is None:
                counted = count_above(scores, targets, known, None if single else places)
            else:
                # None of them is known to the user, so that masking changes nothing.
                drawn = torch.from_numpy(self.sampled.draw(rows.users[chunk])).to(device)
                counted = [count_among(scores, targets, places, drawn)] * len(maskings)
        except FloatingPointError as error:
            raise DivergenceError(
                f"{self.config['model']} gives NaN scores on {phase}", "lower learning_rate"
            ) from error
        found = np.stack([torch.stack(counts).cpu().numpy() for counts in counted])
        if length == 0:
            return found, np.zeros((len(chunk), 0), dtype=np.int64)
        masked = mask_known(scores, targets, *known[0], owners=places)
        return found, masked.topk(length).indices.cpu().numpy()

    def _rounds(self, inputs: Interaction, users: int, size: int) -> list[list[np.ndarray]]:
        """Row numbers of each batch of so many users, so many batches at a time."""
        chunks = self._chunks(inputs, users)
        return [chunks[start : start + size] for start in range(0, len(chunks), size)]

    def _chunks(self, inputs: Interaction, users: int) -> list[np.ndarray]:
        """Row numbers of each batch; histories of similar length together where trimmed."""
        order = np.arange(len(inputs[self.dataset.uid_field]))
        if self.config["bucket_by_length"] and self._length_field in inputs:
            order = np.argsort(inputs[self._length_field].numpy(), kind="stable")
        return [order[start : start + users] for start in range(0, len(order), users)]

    @property
    def _length_field(self) -> str:
        return self.config["ITEM_LIST_LENGTH_FIELD"]

    @property
    def _suffix(self) -> str:
        return str(self.config["LIST_SUFFIX"])

    def score(self, model: Any, rows: Interaction) -> Tensor:
        """Scores of all items for each of `rows`, [B, N + 1]; column 0 is padding and may be any.

        Raises
        ------
        RunError
            If the model's scores have the wrong shape.
        """
        if self.config["bucket_by_length"] and self._length_field in rows:
            from recbole_hellm.data.interactions.loaders import trim_histories

            rows = trim_histories(rows, self._length_field, self._suffix)
        if self._length_field in rows:
            rows = self.transform(self.dataset, rows)
        n_items = self.dataset.item_num
        try:
            scores = model.full_sort_predict(rows)
        except NotImplementedError:
            scores = self._score_pairs(model, rows, n_items)
        scores = scores.reshape(len(rows), -1)
        if scores.shape[1] != n_items:
            raise RunError(
                f"{self.config['model']} scores {scores.shape[1]} items instead of {n_items}."
            )
        return scores

    def _score_pairs(self, model: Any, rows: Interaction, n_items: int) -> Tensor:
        """Every (user, item) pair through ``predict``, as RecBole does for such models."""
        if self._items is None:
            self._items = self.dataset.get_item_feature().to(self.config["device"])
        scores = []
        for row in range(len(rows)):
            pairs = rows[row : row + 1].repeat(n_items)
            pairs.update(self._items)
            scores.append(model.predict(pairs))
        return torch.stack(scores)


def users_at_once(config: Any, model: Any) -> int:
    """Users to score at a time: ``eval_users``, fewer where an item is several tokens.

    Parameters
    ----------
    config : HellmConfig
    model : AbstractRecommender
        May have ``tokens_per_item``, the most tokens that an item of a history takes up.
    """
    tokens: int = getattr(model, "tokens_per_item", 1)
    return max(1, config["eval_users"] // tokens)
