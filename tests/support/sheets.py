"""A small table of methods, and how its sheets are read."""

from __future__ import annotations

from recbole_hellm.benchmark.paper import TABLE_1
from recbole_hellm.benchmark.plans.shapes import Family, Table
from recbole_hellm.reporting.sheets import Cell, Sheet

TABLE = Table("t", "Title", (Family("HeLLM", ("LightGCN", "SASRec", "HeLLM")),), printed=TABLE_1)


def row(sheet: Sheet, name: str) -> list[Cell]:
    """The cells of a method's row."""
    return next(cells for cells in sheet.cells() if cells[0].text == name)
