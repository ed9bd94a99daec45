"""A toy model, its batches and an evaluator with fixed scores, for tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import nn

from recbole_hellm.evaluation.evaluator import Evaluation


class Line(nn.Module):
    """Minimises (w - x)^2 over a batch; stands for a model."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        self.b = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def calculate_loss(self, interaction: Any) -> Any:
        return ((self.w + self.b - interaction["x"][:, None]) ** 2).mean()

    def other_parameter(self) -> dict[str, Any]:
        return {}

    def load_other_parameter(self, values: dict[str, Any]) -> None:
        assert values == {}


class Batches:
    """Four batches of two, shuffled by a generator whose state can be kept."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Interaction]:
        for rows in torch.randperm(8, generator=self.generator).view(4, 2):
            yield Interaction({"x": rows.float()})

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class Scores:
    """An evaluator that gives the scores it was made with, one a validation."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.asked = iter(scores), []

    def evaluate(
        self, model: Any, phase: str, maskings: tuple[str, ...], show_progress: bool = False
    ) -> Evaluation:
        self.asked.append((phase, maskings))
        score = next(self.scores)
        return Evaluation(phase, {maskings[0]: {"ndcg@10": score}}, {})


def scalars(trainer: Any) -> dict[str, list[float]]:
    """What a trainer tells trackers of its epochs, by name."""
    names = dict.fromkeys(name for values in trainer.curves.values() for name in values)
    return {name: [values[name] for values in trainer.curves.values()] for name in names}
