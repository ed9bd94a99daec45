"""Synthetic interactions and item features for measurements of growth.

python benchmarks/growth_data.py interactions.csv 10000 2000 --features=dataset/synthetic
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_hellm.data.features.store import save_features

PER_USER = 10
"""Interactions of a user, on average, before the few that are drawn twice count once."""
LEAST = 5
MOST = 200
DIM = 64
MODALITIES = ("text", "image")
GROUPS = 100
_SHIFT = 20.0  # flattens the head of the items' long tail
_TIMES = (1_300_000_000, 1_700_000_000)  # seconds over which interactions are spread


def draw_interactions(users: int, items: int, seed: int = 0) -> tuple[npt.NDArray[np.int64], ...]:
    """Users, items and times of interactions, each int64 [E], grouped by user.

    A user has :data:`LEAST` interactions and a geometric number more. Item r is drawn in proportion
    to 1 / (r + 20). An item that a user draws twice counts once.

    Parameters
    ----------
    users, items : int
        Users and items to draw from; rare items may be drawn by nobody.
    seed : int
    """
    rng = np.random.default_rng(seed)
    more = rng.geometric(1 / (PER_USER - LEAST + 1), users) - 1
    counts = np.minimum(LEAST + more, min(MOST, items))
    shares = np.cumsum(1 / (np.arange(items) + _SHIFT))
    drawn = np.searchsorted(shares, rng.random(int(counts.sum())) * shares[-1])
    owners = np.repeat(np.arange(users, dtype=np.int64), counts)
    pairs = np.unique(owners * items + np.minimum(drawn, items - 1))
    times = rng.integers(*_TIMES, len(pairs))
    return pairs // items, pairs % items, times


def draw_features(items: int, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Features of all items by modality, [items, 64] each, scattered around group centres."""
    rng = np.random.default_rng([seed, 1])
    tables = {}
    for modality in MODALITIES:
        centres = rng.standard_normal((GROUPS, DIM), dtype=np.float32)
        rows = rng.standard_normal((items, DIM), dtype=np.float32)
        tables[modality] = rows * np.float32(0.5) + centres[rng.integers(0, GROUPS, items)]
    return tables


def write_table(file: Path, users: int, items: int, seed: int = 0) -> int:
    """Write the interactions as a table for ``prepare``, and count them.

    Parameters
    ----------
    file : Path
        A CSV file with the columns user, item and time.
    users, items, seed : int
        As for :func:`draw_interactions`.
    """
    owners, chosen, times = draw_interactions(users, items, seed)
    # Tokens are texts, as in most logs; each distinct one is made once.
    user_tokens = np.array([f"u{number}" for number in range(users)], dtype=object)
    item_tokens = np.array(tokens(items), dtype=object)
    columns = {"user": user_tokens[owners], "item": item_tokens[chosen], "time": times}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    pd.DataFrame(columns).to_csv(part, index=False)
    part.replace(file)
    return len(owners)


def write_features(directory: Path, items: int, seed: int = 0) -> None:
    """Store the items' features in the folder of a dataset.

    Parameters
    ----------
    directory : Path
    items, seed : int
        As for :func:`draw_features`.
    """
    for modality, matrix in draw_features(items, seed).items():
        save_features(directory, modality, "growth", tokens(items), matrix)


def tokens(items: int) -> list[str]:
    """Tokens of the items."""
    return [f"i{number}" for number in range(items)]


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("users", type=int)
    parser.add_argument("items", type=int)
    parser.add_argument("--features", type=Path, help="folder of a dataset")
    options = parser.parse_args()
    write_table(options.table, options.users, options.items)
    if options.features:
        write_features(options.features, options.items)


if __name__ == "__main__":
    main()
