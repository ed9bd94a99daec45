"""Portions of what several processes share out among them: the rows of a batch, or the nodes of a
graph."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Portion:
    r"""One of several portions that are as equal as can be.

    A mean over n rows is the sum over portions of their means, each times its share:

    .. math:: \frac1n \sum_{b=1}^{n} f_b = \sum_{r} \frac{n_r}{n} \Big( \frac{1}{n_r}
        \sum_{b \in r} f_b \Big)

    A term that does not depend on the rows is counted once, too, since shares sum to 1.

    Attributes
    ----------
    rank : int
        From 0; the number of this portion.
    size : int
        Number of portions. The only one is the whole.

    Examples
    --------
    >>> [Portion(rank, 3).slice(7) for rank in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """

    rank: int = 0
    size: int = 1

    def slice(self, count: int) -> slice:
        """The places of this portion among `count`, at least one.

        A portion without places has the first one, with a share of 0: a process without rows still
        makes as many passes as the others, because processes wait for each other.
        """
        start, stop = self._bounds(count)
        return slice(start, stop) if stop > start else slice(0, 1)

    def share(self, count: int) -> float:
        """The share of `count` places that are this portion's."""
        start, stop = self._bounds(count)
        return (stop - start) / count

    def of(self, rows: Any) -> Any:
        """This portion of a tensor's rows, or of a batch; the whole is the same object."""
        return rows if self.size == 1 else rows[self.slice(len(rows))]

    def weighted(self, mean: Tensor, count: int) -> Tensor:
        """A mean over this portion of `count`, times its share: a summand of the mean over all."""
        return mean if self.size == 1 else mean * self.share(count)

    def _bounds(self, count: int) -> tuple[int, int]:
        return count * self.rank // self.size, count * (self.rank + 1) // self.size


WHOLE = Portion()
