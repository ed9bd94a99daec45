"""Files of a run's test ranking: each user's rank, and the recommended lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from recbole_hellm.config.resolution import MASKINGS
from recbole_hellm.evaluation.evaluator import Evaluation
from recbole_hellm.runs.directory import RunDirectory

RANK_COLUMNS = ("higher", "tied", "candidates")
"""What a file of ranks tells of each user's target."""


def maskings(config: Any) -> tuple[str, ...]:
    """All maskings, the run's own first."""
    run_masking = config["mask_history"]
    return (run_masking, *(name for name in MASKINGS if name != run_masking))


def write_ranks(dataset: Any, directory: RunDirectory, test: Evaluation) -> None:
    """Write each target's rank under every masking.

    Where a user has several targets, the column ``row`` tells which of them are ranked together.
    """
    rows = dataset.target_rows("test")
    items = dataset.id2token(dataset.iid_field, rows.items)
    for masking, ranks in test.ranks.items():
        users = dataset.id2token(dataset.uid_field, ranks.users)
        numbers = {} if ranks.rows is None else {"row": ranks.rows}
        frame = pd.DataFrame(
            {
                "user": users,
                **numbers,
                "item": items,
                "higher": ranks.higher,
                "tied": ranks.tied,
                "candidates": ranks.candidates,
            }
        )
        directory.write_table(ranks_file(masking), frame)


def ranks_file(masking: str) -> str:
    """Name of the file of ranks in a run directory."""
    return f"ranks-{masking}.parquet"


def lists_file(masking: str) -> str:
    """Name of the file of recommended lists in a run directory."""
    return f"topk-{masking}.parquet"


def write_lists(dataset: Any, directory: RunDirectory, test: Evaluation) -> None:
    """Write the recommended lists, if the evaluation saved any (``save_topk``).

    Where a user has several, the column ``row`` tells them apart.
    """
    if test.topk is None:
        return
    masking, rows = next(iter(test.ranks)), dataset.target_rows("test")
    users = dataset.id2token(dataset.uid_field, rows.users)
    length = test.topk.shape[1]
    several = len(np.unique(rows.users)) < len(rows)
    numbers = {"row": np.repeat(np.arange(len(rows)), length)} if several else {}
    frame = pd.DataFrame(
        {
            "user": np.repeat(users, length),
            **numbers,
            "place": np.tile(np.arange(1, length + 1), len(users)),
            "item": dataset.id2token(dataset.iid_field, test.topk.ravel()),
        }
    )
    directory.write_table(lists_file(masking), frame)
