"""What methods cost, as columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from recbole_hellm.benchmark.methods import Method

_UNKNOWN = "?"


def _lacks_stages(method: Method, key: str) -> bool:
    """Whether it stands on stages whose cost was not kept."""
    stands = any(run.record.get("stages") for run in method.runs)
    return stands and method.cost(key, "cost_with_stages") is None


def _seconds(key: str) -> Callable[[Method], str]:
    def show(method: Method) -> str:
        own, whole = method.cost(key), method.cost(key, "cost_with_stages")
        if own is None:
            return "–"
        if _lacks_stages(method, key):
            return f"{own:,.0f} ({_UNKNOWN})"
        return f"{own:,.0f}" if whole is None or whole == own else f"{own:,.0f} ({whole:,.0f})"

    return show


def _plain(key: str, pattern: str, scale: float = 1.0) -> Callable[[Method], str]:
    def show(method: Method) -> str:
        value = method.cost(key)
        return "–" if value is None else pattern.format(value * scale)

    return show


def _parameters(method: Method) -> str:
    trained, all_ = method.cost("trainable_parameters"), method.cost("parameters")
    if trained is None or all_ is None:
        return "–"
    both = [f"{trained / 1e6:.2f}", f"{all_ / 1e6:.2f}"]
    return " of ".join(dict.fromkeys(both))


def _hardware(methods: Sequence[Method]) -> list[str]:
    return sorted({run.hardware for method in methods for run in method.runs})


def training_time(methods: Sequence[Method]) -> str:
    """The entry of a cost that tells how long training took.

    It is the processor's time, which other work on a machine hardly moves; a GPU's work is no part
    of it, so where there is one the clock counts.
    """
    return "train_cpu_seconds" if _hardware(methods) == ["CPU"] else "train_seconds"


def cost_columns(methods: Sequence[Method]) -> dict[str, Callable[[Method], str]]:
    """How each column of cost is written for a method, by the column's head."""
    return {
        "best epoch": lambda m: f"{np.mean([run.record['best_epoch'] for run in m.runs]):.0f}",
        "training, s": _seconds(training_time(methods)),
        "test, s": _plain("test_seconds", "{:.1f}"),
        "memory, GB": _plain("peak_memory_mb", "{:.1f}", 2**20 / 1e9),
        "trained, M": _parameters,
    }


def cost_notes(methods: Sequence[Method]) -> list[str]:
    """What a reader must know of these columns."""
    hardware, key = _hardware(methods), training_time(methods)
    unknown = ", ".join(method.name for method in methods if _lacks_stages(method, key))
    lacking = f"{_UNKNOWN}: the cost of a stage was not kept, so the plot of cost lacks {unknown}."
    last = [lacking] if unknown else []
    if hardware == ["CPU"]:
        return [
            "Training is processor time of all threads until it stopped, epochs after the best one "
            "included, in brackets with the stages a method stands on; memory is the process's "
            "peak.",
            *last,
        ]
    notes = [
        "Training is by the clock until it stopped, epochs after the best one included, in "
        "brackets with the stages a method stands on; memory is the peak of the GPU, or of the "
        f"process where there is none. Trained on: {', '.join(hardware)}."
    ]
    if len(hardware) > 1:
        notes.append("Costs of different hardware do not compare.")
    mixed = [method.name for method in methods if len(_hardware([method])) > 1]
    if mixed:
        notes.append(
            f"Costs of {', '.join(mixed)} are means over the runs on the hardware of the first "
            "seed."
        )
    return notes + last
