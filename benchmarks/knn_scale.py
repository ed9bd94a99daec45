"""Time and peak memory of nearest neighbours in a large catalogue.

python benchmarks/knn_scale.py --items=1000000 --dim=64
python benchmarks/knn_scale.py --items=100000 --search=faiss-hnsw

Features are random, in --clusters groups if asked for; rows drawn at random are checked against all
items in float64. With --search=faiss-..., exact search follows in the same process, and a line of
JSON compares the two.
"""

from __future__ import annotations

import argparse
import logging
import time
import typing

import numpy as np
import torch
from measuring import Goal, print_result

from recbole_hellm.graph.faiss_search import Search
from recbole_hellm.graph.knn import RESOLUTION, WANTED_RECALL, NearestNeighbours, knn_graph
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


def recall(near: NearestNeighbours, exact: NearestNeighbours) -> float:
    """The share of neighbours that are as similar as the last one of exact search."""
    least = exact.similarities[:, -1:] - RESOLUTION
    return float((near.similarities >= least).double().mean())


def features_of(options: argparse.Namespace, rng: np.random.Generator) -> np.ndarray:
    """Random features, shape [items, dim]: of one group, or scattered around some centres."""
    rows = rng.standard_normal((options.items, options.dim), dtype=np.float32)
    if options.clusters:
        centres = rng.standard_normal((options.clusters, options.dim), dtype=np.float32)
        rows *= 0.5
        rows += centres[rng.integers(0, options.clusters, options.items)]
    return rows


def timed(
    features: np.ndarray, k: int, search: Search
) -> tuple[NearestNeighbours, dict[str, float]]:
    """Neighbours, and seconds of a clock and of processors."""
    started, computed = time.perf_counter(), time.process_time()
    near = knn_graph(features, k, search=search)
    seconds, cpu = time.perf_counter() - started, time.process_time() - computed
    return near, {"seconds": seconds, "cpu_seconds": cpu}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--checked", type=int, default=50, help="rows to check")
    parser.add_argument("--search", choices=typing.get_args(Search), default="exact")
    parser.add_argument("--clusters", type=int, default=0, help="groups of items; none by default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("recbole_hellm").setLevel(logging.INFO)
    rng = np.random.default_rng(0)
    features = features_of(options, rng)
    before = peak_memory_mb(torch.device("cpu"))
    near, spent = timed(features, options.k, options.search)
    peak = peak_memory_mb(torch.device("cpu"))
    rows = rng.choice(options.items, min(options.checked, options.items), replace=False)
    wrong = check(features, near.indices.numpy(), rows)
    print(
        f"{options.items:,} items x {options.dim}, K={options.k}: {spent['seconds']:,.0f} s "
        f"({spent['cpu_seconds']:,.0f} s of processor time, {torch.get_num_threads()} threads), "
        f"peak memory {peak:,.0f} MiB ({before:,.0f} before), {wrong} wrong of "
        f"{len(rows) * options.k} neighbours checked"
    )
    if options.search == "exact":
        return
    exact, reference = timed(features, options.k, "exact")
    found, same = recall(near, exact), bool(torch.equal(near.indices, exact.indices))
    ratio = reference["seconds"] / spent["seconds"]
    goals = [Goal("times as fast as exact search", ratio, 1, at_most=False)]
    if options.search == "faiss-flat":
        goals.append(Goal("same graph as by exact search (1: yes)", float(same), 1, at_most=False))
    else:
        goals.append(Goal("recall", found, WANTED_RECALL, at_most=False))
    figures = {
        "items": options.items,
        "dim": options.dim,
        "k": options.k,
        "clusters": options.clusters,
        **spent,
        "peak_mb": peak,
        "recall": found,
        "same_graph": same,
        **{f"exact_{key}": value for key, value in reference.items()},
        "ratio": ratio,
    }
    name = f"neighbours_{options.search.removeprefix('faiss-')}"
    why = (
        f"{options.search} is timed with the building of its index and the measuring of its recall."
    )
    print_result(name, figures, tuple(goals), why)


if __name__ == "__main__":
    main()
