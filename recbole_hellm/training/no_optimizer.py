"""What stands for an optimizer where a model counts instead of learning."""

from __future__ import annotations

from typing import Any


class NoOptimizer:
    """Leaves all parameters as they are.

    RecBole's counting models, such as Pop and ItemKNN, have a parameter without use, so that its
    trainer can make an optimizer. Making one imports PyTorch's compiler, which takes longer than
    counting.

    Attributes
    ----------
    param_groups : list of dict
        One group, without parameters, for its learning rate.
    """

    def __init__(self, learning_rate: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": [], "lr": learning_rate}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing."""

    def step(self, closure: Any = None) -> None:
        """Do nothing."""
