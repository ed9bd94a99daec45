"""Random subsets of interactions; active users and popular items have lower probability."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def degree_weights(users: np.ndarray, items: np.ndarray) -> Tensor:
    r"""Weight :math:`1 / (\sqrt{d_u} \sqrt{d_i})` of each interaction, with d the degrees of its
    user and item.

    Parameters
    ----------
    users, items : ndarray of int, shape [E]
        Distinct interactions as row and column numbers from 0.

    Returns
    -------
    Tensor of float64, shape [E]
        On the CPU.

    References
    ----------
    Zhou and Shen, FREEDOM, MM 2023 (degree-sensitive edge pruning).
    """
    degrees = np.bincount(users)[users].astype(np.float64) * np.bincount(items)[items]
    return torch.from_numpy(degrees**-0.5)


def draw_without_replacement(weights: Tensor, size: int) -> Tensor:
    r"""Draw `size` different indices successively with probability proportional to weight.

    The result is the first `size` arrivals of an exponential race, in which index k has rate
    :math:`w_k`. This has the distribution of successive draws, takes one pass, and works for any
    number of weights (``torch.multinomial`` takes at most 2^24).

    Parameters
    ----------
    weights : Tensor of float, shape [E]
        Positive; they need not sum to 1.
    size : int
        At most E.

    Returns
    -------
    Tensor of int64, shape [size]
        Ascending. Drawn with torch's generator of the device of `weights`.

    Raises
    ------
    ValueError
        If there are fewer than `size` weights.

    References
    ----------
    Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006.
    """
    if not 0 <= size <= len(weights):
        raise ValueError(f"cannot draw {size} of {len(weights)} without replacement")
    # float64, since some of millions of times would tie in float32.
    times = torch.empty_like(weights, dtype=torch.float64).exponential_().div_(weights)
    return times.topk(size, largest=False, sorted=False).indices.sort().values
