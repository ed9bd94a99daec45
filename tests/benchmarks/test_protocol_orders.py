"""Orders of methods under two protocols, from kept results."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import protocol_orders
import pytest


def write(folder: Path, name: str, values: dict[str, float]) -> None:
    rows = [
        {"method": method, "metric": metric, "mean": value}
        for method, value in values.items()
        for metric in protocol_orders.METRICS
    ]
    pd.DataFrame(rows).to_csv(folder / f"{name}-results.csv", index=False)


def test_methods_of_both_are_ordered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_orders, "RESULTS", tmp_path)
    write(tmp_path, "a", {"A": 0.3, "B": 0.2, "only here": 0.9, "C": 0.1})
    write(tmp_path, "b", {"C": 0.03, "B": 0.02, "A": 0.01})
    shown = protocol_orders.orders("a", "b").splitlines()
    assert shown[2:5] == [
        "| A | .3000 (1) | .0100 (3) | .3000 (1) | .0100 (3) |",
        "| B | .2000 (2) | .0200 (2) | .2000 (2) | .0200 (2) |",
        "| C | .1000 (3) | .0300 (1) | .1000 (3) | .0300 (1) |",
    ]
    # Of six orders of three methods one is this far from the other, and one as far on the other
    # side.
    assert shown[-1] == "Kendall's tau of R@20 over 3 methods: -1.00 (p = .333)."


def test_the_shown_orders_are_those_of_the_kept_results() -> None:
    page = (protocol_orders.RESULTS.parent / "results.md").read_text(encoding="utf-8")
    commands = re.findall(r"`python benchmarks/protocol_orders.py (\S+) (\S+)`", page)
    assert commands
    assert all(protocol_orders.orders(*command) in page for command in commands)
