"""Averages of a model's weights over its training, which are scored in place of the last ones.

Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM 1992; Izmailov et
al., "Averaging weights leads to wider optima and better generalization", UAI 2018. PyTorch's
``torch.optim.swa_utils`` computes the averages.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from recbole_hellm.config.training_settings import TrainingSettings


class WeightAverage:
    """No average: a model is scored with the weights that it has.

    Subclasses average the trained parameters, and the buffers of real numbers that checkpoints
    hold, such as the running statistics of batch norms. Frozen parameters and all other buffers
    are the model's own, and there is no second copy of them.

    Parameters
    ----------
    model : nn.Module
        The model in training; its weights are read, and written by :meth:`in_place` alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def after_step(self) -> None:
        """Take the weights after a step of the optimiser."""

    def after_epoch(self) -> None:
        """Take the weights at the end of an epoch."""

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in place of the weights within the block."""
        averages = self._averages()
        if averages is None:
            yield
            return
        _swap(averaged_tensors(self.model).values(), averages)
        try:
            yield
        finally:
            _swap(averaged_tensors(self.model).values(), averages)

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; raises KeyError if it is another model's."""

    def _averages(self) -> list[Tensor] | None:
        """An average for each of :func:`averaged_tensors`; None before the first weights."""
        return None


class MovingAverage(WeightAverage):
    r"""Exponential moving average of the weights :math:`\theta_t` after each step.

    .. math::

        a_1 = \theta_1, \qquad a_{t+1} = \delta_t a_t + (1 - \delta_t) \theta_{t+1}, \qquad
        \delta_t = \min\left(\delta, \frac{1 + t}{10 + t}\right)

    The smaller decays of the first steps are those of TensorFlow's ``ExponentialMovingAverage``.
    Without them an average over a thousand steps and more would hold much of the first, random
    weights at the end of a short training.

    Parameters
    ----------
    model : nn.Module
    decay : float
        :math:`\delta`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self._average: AveragedModel | None = None

    def after_step(self) -> None:
        """See :meth:`WeightAverage.after_step`."""
        weights = _listed(averaged_tensors(self.model).values())
        self._average = self._average or self._built(weights)
        self._average.update_parameters(weights)

    def state_dict(self) -> dict[str, Any]:
        """The averages by name, and the number of steps they are over."""
        averages, average = self._averages(), self._average
        if averages is None or average is None:
            return {}
        names = averaged_tensors(self.model)
        return {
            "steps": int(average.n_averaged),
            "weights": dict(zip(names, averages, strict=True)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`WeightAverage.load_state_dict`."""
        self._average = None
        if state:
            names = averaged_tensors(self.model)
            self._average = self._built(_listed(state["weights"][name] for name in names))
            self._average.n_averaged.fill_(state["steps"])

    def _built(self, weights: nn.ParameterList) -> AveragedModel:
        def average(averages: Any, tensors: Any, steps: Tensor | int) -> None:
            decay = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
            get_ema_multi_avg_fn(decay)(averages, tensors, steps)

        return AveragedModel(weights, multi_avg_fn=average)

    def _averages(self) -> list[Tensor] | None:
        average = self._average
        return None if average is None else [p.detach() for p in average.module.parameters()]


class EpochAverage(WeightAverage):
    """Mean of the weights at the ends of the last epochs, of all epochs so far if they are fewer.

    Parameters
    ----------
    model : nn.Module
    epochs : int
        Number of epochs; so many copies of the weights are kept.
    """

    def __init__(self, model: nn.Module, epochs: int) -> None:
        super().__init__(model)
        self._ends: deque[list[Tensor]] = deque(maxlen=epochs)

    def after_epoch(self) -> None:
        """See :meth:`WeightAverage.after_epoch`."""
        self._ends.append([t.detach().clone() for t in averaged_tensors(self.model).values()])

    def state_dict(self) -> dict[str, Any]:
        """The weights of each epoch by name, oldest first."""
        names = averaged_tensors(self.model)
        return {"epochs": [dict(zip(names, end, strict=True)) for end in self._ends]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`WeightAverage.load_state_dict`."""
        names = averaged_tensors(self.model)
        self._ends.clear()
        self._ends.extend([end[name] for name in names] for end in state["epochs"])

    def _averages(self) -> list[Tensor] | None:
        if not self._ends:
            return None
        average = AveragedModel(_listed(self._ends[0]))
        for end in self._ends:
            average.update_parameters(_listed(end))
        return [p.detach() for p in average.module.parameters()]


def weight_average(settings: TrainingSettings, model: nn.Module) -> WeightAverage:
    """The average that ``weight_averaging`` names; none of a model without weights."""
    if not averaged_tensors(model):
        return WeightAverage(model)
    if settings.weight_averaging == "ema":
        return MovingAverage(model, settings.ema_decay)
    if settings.weight_averaging == "last":
        return EpochAverage(model, settings.averaged_epochs)
    return WeightAverage(model)


def kept_copies(settings: TrainingSettings) -> int:
    """Copies of the trained weights that an average keeps."""
    return {"none": 0, "ema": 1, "last": settings.averaged_epochs}[settings.weight_averaging]


def averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that are averaged, by name: see :class:`WeightAverage`."""
    tensors: dict[str, Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(path, recurse=False):
            saved = name.rpartition(".")[2] not in module._non_persistent_buffers_set
            if saved and buffer.is_floating_point() and buffer.layout == torch.strided:
                tensors[name] = buffer
    return tensors


def _listed(tensors: Iterable[Tensor]) -> nn.ParameterList:
    """Tensors as the module that PyTorch averages, without copies of them."""
    return nn.ParameterList(nn.Parameter(t.detach(), requires_grad=False) for t in tensors)


@torch.no_grad()
def _swap(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> None:
    """Exchange the values of tensors, in place: optimisers and other processes refer to them."""
    for tensor, other in zip(tensors, others, strict=True):
        kept = tensor.clone()
        tensor.copy_(other)
        other.copy_(kept)
