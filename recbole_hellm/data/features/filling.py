"""Vectors for items that have none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def filled(
    present: npt.NDArray[np.bool_],
    vectors: npt.NDArray[np.float32],
    sound: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    """A vector for every item: its own, or the mean of those of other items.

    Parameters
    ----------
    present : ndarray
        bool [N]; which items have a vector.
    vectors : ndarray
        float32 [n, D], the vectors of the n items that have one, in the order of items.
    sound : ndarray, optional
        bool [n]; which of these count for the mean. All by default, and where none is sound.

    Returns
    -------
    ndarray
        float32 [N, D].
    """
    counted = vectors if sound is None or not sound.any() else vectors[sound]
    mean = counted.mean(axis=0, dtype=np.float64).astype(np.float32)
    matrix = np.tile(mean, (len(present), 1))
    matrix[present] = vectors
    return matrix
