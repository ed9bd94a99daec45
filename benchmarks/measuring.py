"""What the scripts of whole jobs share: times, goals, the machine, and the line that they print."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

_MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Goal:
    """A figure that is to be reached.

    Attributes
    ----------
    what : str
        The figure, as in "seconds of an epoch".
    value : float
        What was measured.
    limit : float
        What it should be at most, or at least.
    at_most : bool
    """

    what: str
    value: float
    limit: float
    at_most: bool = True

    @property
    def reached(self) -> bool:
        """Whether the measured figure is on the right side of the limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def print_result(name: str, figures: Mapping[str, Any], goals: tuple[Goal, ...], why: str) -> None:
    """Print one JSON line, the last one of a script.

    Parameters
    ----------
    name : str
        The benchmark.
    figures : mapping
        What was measured, with units in the names.
    goals : tuple of Goal
    why : str
        What the time is spent on, from figures of the same run.
    """
    line = {
        "benchmark": name,
        "figures": dict(figures),
        "goals": [dataclasses.asdict(goal) | {"reached": goal.reached} for goal in goals],
        "why": why,
        "machine": machine(),
    }
    print(json.dumps(line))


def machine() -> dict[str, Any]:
    """The processor, its cores and the versions that matter."""
    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.partition(":")[2].strip() for line in lines if "model name" in line)
            model = next(names, model)
    except OSError:
        pass  # another system than Linux
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def median_seconds(work: Callable[[], object], times: int) -> float:
    """The median time of `work` after one time that does not count."""
    seconds = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def copied_bytes_per_second(mebibytes: int = 256) -> float:
    """Bytes that a copy of a large block reads and writes in a second."""
    source = torch.zeros(mebibytes * _MEBIBYTE, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source), 5)


def multiplied_per_second(size: int = 1024) -> float:
    """Multiplications and additions of float32 in a second, in a product of square matrices."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    result = torch.empty(size, size)
    return 2 * size**3 / median_seconds(lambda: torch.mm(left, right, out=result), 5)
