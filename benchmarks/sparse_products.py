"""Time the product of an interaction matrix and embeddings in this package and in torch and scipy.

    python benchmarks/sparse_products.py                        # Amazon Beauty's size, seconds
    python benchmarks/sparse_products.py --size=sports --dims=64 --threads=2

Every kernel multiplies the same synthetic matrix and its transpose, in turns; the median of a
kernel is given as a ratio to this package's. Results are checked against scipy's in float64. Needs
torch, numpy and scipy, but not RecBole.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from pretrain_step import SIZES, synthetic_interactions
from torch import Tensor

from recbole_hellm.graph.sparse import csr_tensor, multiply

TOLERANCE = 1e-5
"""Largest error of an entry, relative to the largest entry of the result."""


def kernels(matrix: sp.csr_array, dense: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Products of the same operands."""
    parts = (matrix.indptr, matrix.indices, matrix.data)
    csr = csr_tensor(*(torch.from_numpy(part) for part in parts), matrix.shape)
    coo = csr.to_sparse_coo().coalesce()
    array = dense.numpy()
    return {
        "recbole_hellm": lambda: multiply(csr, dense),
        "torch, CSR (MKL)": lambda: csr @ dense,
        "torch, CSR (reduce)": lambda: torch.sparse.mm(csr, dense, "sum"),
        "torch, COO": lambda: torch.sparse.mm(coo, dense),
        "scipy": lambda: torch.from_numpy(matrix @ array),
    }


def measure(matrix: sp.csr_array, dense: Tensor, rounds: int) -> dict[str, float]:
    """Median milliseconds of each kernel, the results checked once."""
    exact = torch.from_numpy(matrix.astype(np.float64) @ dense.double().numpy())
    products = kernels(matrix, dense)
    for name, product in products.items():
        error = float((product() - exact).abs().max() / exact.abs().max())
        if error > TOLERANCE:
            raise SystemExit(f"{name} is wrong by {error:.1e} of the largest entry")
    seconds: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(rounds):
        for name, product in products.items():
            begun = time.perf_counter()
            product()
            seconds[name].append(time.perf_counter() - begun)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="beauty")
    parser.add_argument("--dims", default="64,256", help="columns of the dense matrix")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    pattern = synthetic_interactions(*SIZES[options.size], rng)
    pattern.data = rng.random(pattern.nnz)
    matrix = sp.csr_array(pattern.astype(np.float32))
    matrix.sort_indices()
    m, n = matrix.shape
    print(f"{m:,} x {n:,}, {matrix.nnz:,} entries, {options.threads} threads, {torch.__version__}")
    for dim in map(int, options.dims.split(",")):
        for name, part in (("A", matrix), ("A^T", sp.csr_array(matrix.T))):
            part.sort_indices()
            dense = torch.from_numpy(rng.normal(size=(part.shape[1], dim)).astype(np.float32))
            times = measure(part, dense, options.rounds)
            own = times["recbole_hellm"]
            for kernel, value in times.items():
                print(f"d = {dim:<5}{name:<5}{kernel:<22}{value:9.2f} ms{value / own:7.1f}x")


if __name__ == "__main__":
    main()
