"""At least 10,000 generated inputs: every row is accounted for, or a sentence refuses the input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from reliability.support import generating
from reliability.support.verdicts import Kind
from reliability.support.workshop import Workshop

pytestmark = pytest.mark.reliability

HERE = "reliability.support"
# Module, part, examples, the stage they need, and the least share that must not be refused.
PARTS = {
    "delimited text": ("tables", "delimited", 2000, None, 0.3),
    "JSON": ("tables", "objects", 1000, None, 0.3),
    "Parquet": ("tables", "parquet", 800, None, 0.3),
    "mutilated tables": ("tables", "mutilated", 1200, None, 0.01),
    "raw lines": ("tables", "raw", 1500, None, 0.3),
    "atomic files": ("texts", "atomic", 1500, None, 0.2),
    "features": ("texts", "features", 1000, "prepared", 0.05),
    "YAML": ("words", "settings", 1000, "prepared", 0.02),
    "command lines": ("words", "commands", 1000, "prepared", 0.02),
}
BATCH = 250


@pytest.mark.parametrize("name", PARTS)
def test_generated_inputs_are_read_or_refused(
    name: str,
    workshop: Workshop,
    stages: dict[str, str],
    short: bool,
    report: Callable[..., None],
) -> None:
    module, part, examples, stage, least = PARTS[name]
    # In short so many that the least share is two inputs or more, and not met or missed by chance.
    size = max(40, math.ceil(2 / least)) if short else BATCH
    batches = 1 if short else examples // size
    template = stages[stage] if stage else None
    tries = [(f"{HERE}.{module}", part, seed, size, template) for seed in range(batches)]
    parts = workshop.map(generating.batch, tries)
    verdicts = [verdict for batch in parts for verdict in batch]
    report(f"generated {name}", verdicts)
    read = sum(verdict.kind is Kind.SAME for verdict in verdicts)
    assert read >= least * len(verdicts), f"only {read} of {len(verdicts)} were read"


def test_there_are_enough() -> None:
    assert sum(examples for _, _, examples, _, _ in PARTS.values()) >= 10_000
