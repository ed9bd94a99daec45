"""What the package asks of a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class TextEncoder(Protocol):
    """Turns texts into vectors.

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
