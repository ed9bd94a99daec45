"""What the package asks of encoders of texts and of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

Input = TypeVar("Input", contravariant=True)


class TextEncoder(Protocol):
    """Turns texts into vectors, all of them at once.

    Attributes
    ----------
    name : str
        Names the feature file ``text-<name>.npy``: letters, digits, ``_`` and ``-``.
    revision : str
        Changes whenever the same texts may get other vectors (weights, versions, options), so
        that stored features are known to be current.
    """

    name: str
    revision: str

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode `texts` into float32 [len(texts), D], row by row."""
        ...


@runtime_checkable
class BatchEncoder(Protocol[Input]):
    """Turns inputs into vectors, each batch by itself, so that an interrupted run can go on.

    A row depends on its input alone up to rounding; `batch_size` and `precision` decide the
    rounding. They belong to what a run goes on from, not to `revision`: features that are stored
    stay current on a machine that would compute them in another precision.

    Attributes
    ----------
    name, revision : str
        As those of :class:`TextEncoder`.
    batch_size : int
        Inputs per forward pass.
    precision : str
        Type of the weights and kind of device, for example ``bfloat16 on cuda``.
    """

    name: str
    revision: str
    batch_size: int

    @property
    def precision(self) -> str:
        """See the class."""
        ...

    def encode_batch(self, inputs: Sequence[Input]) -> npt.NDArray[np.float32]:
        """Encode one batch into float32 [len(inputs), D]; a row of NaN has no vector."""
        ...


class ImageEncoder(BatchEncoder[Path], Protocol):
    """Turns picture files into vectors.

    `name` names the feature file ``image-<name>.npy``; a file that is no usable picture gets a row
    of NaN.
    """
