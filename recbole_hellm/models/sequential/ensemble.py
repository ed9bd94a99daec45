"""An ensemble of models by log-linear interpolation, as an LLM with the stages it stands on.

It has nothing to train: its members are runs of their own, and its weights are settings, to be
chosen by validation. None of this is the paper's (docs/method.md, Ensembles).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_hellm.config.settings import Settings, require, setting

ROLES = ("llm", "sequence", "graph")
_ROWS = 1 << 16  # whose histories are read at a time


class EnsembleSettings(Settings):
    """Members of an :class:`Ensemble`, by role, and their weights."""

    llm_model: str | None = setting("HeLLM", "Language model among the members; ~ for none.")
    sequence_model: str | None = setting("SASRec", "Sequential model among them; ~ for none.")
    graph_model: str | None = setting("HeLLMPre", "General model among them; ~ for none.")
    llm_weight: float = setting(1.0, "Weight of the language model's log-probabilities.", ge=0)
    sequence_weight: float = setting(1.0, "Weight of the sequential model's.", ge=0)
    graph_weight: float = setting(1.0, "Weight of the general model's.", ge=0)
    member_seeds: tuple[int, ...] = setting(
        (), "Seeds of which every member is trained, with equal shares; by default the run's own."
    )

    repeats: Literal["scored", "training"] = setting(
        "scored",
        "How likely the next item is one of the history's: as the members score them, or all "
        "together the share of training targets that were in their histories.",
    )

    def validate_relations(self) -> None:
        """Check the relations between fields; raises :class:`ConfigError`."""
        require(
            any(self.model(role) and self.weight(role) for role in ROLES),
            "An ensemble needs a member with a weight; name one by llm_model, sequence_model or "
            "graph_model.",
        )
        require(
            len({*self.member_seeds}) == len(self.member_seeds),
            f"member_seeds={list(self.member_seeds)} names a seed twice; name each once.",
        )

    def model(self, role: str) -> str | None:
        """The model of a role of :data:`ROLES`, if there is one."""
        name: str | None = getattr(self, f"{role}_model")
        return name

    def weight(self, role: str) -> float:
        """The weight of a role."""
        return float(getattr(self, f"{role}_weight"))

    def members(self) -> dict[str, tuple[str, int | None]]:
        """Model and seed of each member, by its name: the role, or the role and the seed.

        A seed of ``None`` is the run's own.
        """
        models = {role: self.model(role) for role in ROLES}
        seeds: list[tuple[str, int | None]] = [(f"-{seed}", seed) for seed in self.member_seeds]
        return {
            role + suffix: (model, seed)
            for role, model in models.items()
            if model
            for suffix, seed in seeds or [("", None)]
        }


class Ensemble(SequentialRecommender):
    r"""Weighted sums of the members' log-probabilities of the next item.

    .. math:: \hat y_i = \sum_m \frac{w_m}{S} \log \mathrm{softmax}(\hat y^m)_i

    over all items i, with the weight :math:`w_m` of a member's role and S seeds. A general model's
    scores are taken as logits, like those of the others.

    With ``repeats: training`` the items of the history H share the probability :math:`\rho`, which
    is (r + 1) / (n + 2) where r of n training targets are in their histories, and all others the
    rest:

    .. math:: \hat y'_i = \hat y_i - \log \sum_{j \in C_i} e^{\hat y_j} +
        \begin{cases} \log \rho & i \in H \\ \log (1 - \rho) & i \notin H \end{cases}

    where :math:`C_i` is H for an item of H and the other items for one of them. This changes no
    order among items of the history or among the others, so nothing where seen items are masked.

    Parameters
    ----------
    config : HellmConfig
    dataset : Dataset
        The training split.

    References
    ----------
    Klakow, "Log-linear interpolation of language models", ICSLP 1998. Ren et al., "RepeatNet",
    AAAI 2019, for the two modes, of which the mixture is a learned function there.
    """

    input_type = InputType.POINTWISE
    settings_classes = (EnsembleSettings,)
    data_parallel = True  # its members are trained before it

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.settings = EnsembleSettings.from_config(config)
        self.scorers: dict[str, Callable[[Any], Tensor]] = {}
        self.repeat_share: float | None = None
        if self.settings.repeats == "training":
            self.repeat_share = repeat_share(dataset, self.ITEM_SEQ, self.ITEM_ID)

    def load_member(self, name: str, score: Callable[[Any], Tensor]) -> None:
        """Put a trained member in place.

        Parameters
        ----------
        name : str
            As of :meth:`EnsembleSettings.members`.
        score : callable
            Maps an interaction of users and histories to scores of all items, [B, N + 1].
        """
        self.scorers[name] = score

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Cross-entropy of the next item over all items, for inspection; nothing is trained."""
        scores = self.full_sort_predict(interaction)[:, 1:]
        return F.cross_entropy(scores, interaction[self.POS_ITEM_ID] - 1)

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, shape [B, N + 1], with padding at minus infinity."""
        seeds = max(1, len(self.settings.member_seeds))
        total: Tensor | float = 0.0
        for name, score in self.scorers.items():
            weight = self.settings.weight(name.partition("-")[0]) / seeds
            if weight:
                total = total + weight * score(interaction)[:, 1:].float().log_softmax(1)
        scores = F.pad(torch.as_tensor(total), (1, 0), value=-torch.inf)
        if self.repeat_share is None:
            return scores
        return share_out(scores, interaction[self.ITEM_SEQ], self.repeat_share)

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Scores of given (history, item) pairs, shape [B]."""
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID][:, None])[:, 0]


def repeat_share(dataset: Any, histories: str, targets: str) -> float:
    """The share of a split's targets that are in their histories, with one more of each kind.

    Parameters
    ----------
    dataset : Dataset
        The training split.
    histories, targets : str
        Names of its columns.
    """
    every, repeated = dataset.inter_feat, 0
    for start in range(0, len(every), _ROWS):
        rows = every[start : start + _ROWS]
        repeated += int((rows[histories] == rows[targets].unsqueeze(1)).any(1).sum())
    return (repeated + 1) / (len(every) + 2)


def share_out(scores: Tensor, histories: Tensor, share: float) -> Tensor:
    """Log-probabilities in which the items of a history have `share`, and all others the rest.

    Parameters
    ----------
    scores : Tensor
        [B, N + 1], padding at minus infinity.
    histories : Tensor of int64
        [B, T] items, padded with 0.
    share : float
        Between 0 and 1.

    Returns
    -------
    Tensor
        [B, N + 1].
    """
    seen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, histories, True)
    own = scores.masked_fill(~seen, -torch.inf).logsumexp(1, keepdim=True)
    others = scores.masked_fill(seen, -torch.inf).logsumexp(1, keepdim=True)
    shared = torch.where(seen, scores - own + math.log(share), scores - others + math.log1p(-share))
    return shared.masked_fill(scores == -torch.inf, -torch.inf)
