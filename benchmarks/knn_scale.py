"""Time and peak memory of exact nearest neighbours in a large catalogue.

python benchmarks/knn_scale.py --items=1000000 --dim=64

Features are random; rows drawn at random are checked against all items in float64.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from recbole_hellm.graph.knn import RESOLUTION, knn_graph
from recbole_hellm.training.memory import peak_memory_mb


def check(features: np.ndarray, indices: np.ndarray, rows: np.ndarray) -> int:
    """Wrong neighbours of `rows`.

    One is wrong that stands there twice, is more similar than the one before it, or is not as
    similar as the item that truly has its place, each up to rounding.
    """
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    k = indices.shape[1]
    wrong = 0
    for row in rows:
        similarities = unit @ unit[row]
        nearest = np.sort(np.partition(similarities, -k)[-k:])[::-1]
        found = similarities[indices[row]]
        bad = np.abs(found - nearest) > RESOLUTION
        bad[1:] |= np.diff(found) > RESOLUTION
        repeated = np.ones(k, dtype=bool)
        repeated[np.unique(indices[row], return_index=True)[1]] = False
        wrong += int((bad | repeated).sum())
    return wrong


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--checked", type=int, default=50, help="rows to check")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((options.items, options.dim), dtype=np.float32)
    before = peak_memory_mb(torch.device("cpu"))
    started, computed = time.perf_counter(), time.process_time()
    near = knn_graph(features, options.k)
    seconds, cpu = time.perf_counter() - started, time.process_time() - computed
    peak = peak_memory_mb(torch.device("cpu"))
    rows = rng.choice(options.items, min(options.checked, options.items), replace=False)
    wrong = check(features, near.indices.numpy(), rows)
    print(
        f"{options.items:,} items x {options.dim}, K={options.k}: {seconds:,.0f} s "
        f"({cpu:,.0f} s of processor time, {torch.get_num_threads()} threads), peak memory "
        f"{peak:,.0f} MiB ({before:,.0f} before), {wrong} wrong of "
        f"{len(rows) * options.k} neighbours checked"
    )


if __name__ == "__main__":
    main()
