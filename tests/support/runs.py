"""Helpers of tests that carry out whole runs."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.results import RunResult

MASKINGS = ("seen", "train", "none")


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


def seal_anew(result: RunResult) -> None:
    """Take the files of a run, which a test has changed, for those that it wrote."""
    directory = RunDirectory(result.path)
    directory.write_record(directory.record())


def outcome(result: RunResult) -> dict[str, Any]:
    """Everything of a run that must repeat, to the last digit."""
    keys = ("test", "valid", "best_epoch", "epochs", "split", "candidates", "users", "items")
    tables = {
        path.name: pd.read_parquet(path).to_dict("list")
        for path in sorted(result.path.glob("*.parquet"))
    }
    weights = torch.load(result.path / "best.pt", weights_only=True)["model"]
    arrays = {name: value.double().flatten().tolist() for name, value in weights.items()}
    return {key: result.record[key] for key in keys} | {"tables": tables, "weights": arrays}
