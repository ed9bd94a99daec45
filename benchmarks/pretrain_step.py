"""Time one step of HeLLM's pre-training in the released formulation and in this package's.

The released formulation multiplies by precomputed COO matrices (user-user, item-item and the square
user-item adjacency) and lets autograd keep the exponentials of the full-node contrast. This
package multiplies by factors, and computes the contrast's gradients chunk by chunk. With all nodes
as anchors both give the same loss, which is checked; fewer anchors estimate it.

    python benchmarks/pretrain_step.py                                     # seconds
    python benchmarks/pretrain_step.py --size beauty --threads 2           # minutes, some 9 GB
    python benchmarks/pretrain_step.py --size beauty --skip-released       # seconds
    python benchmarks/pretrain_step.py --size beauty --dim 512 --skip-full # seconds; 1 GB

The last formulation is timed once more with freed memory kept, which training does on a CPU: else
blocks of more than 32 MiB (131,072 rows of d = 64; Beauty's users with d = 512) are mapped and
cleared anew at every step.

A step is forward, backward and Adam on synthetic interactions with a long-tailed item popularity.
Needs torch, numpy and scipy, but not RecBole.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_hellm.graph import (
    BipartiteGraph,
    ItemHypergraph,
    UserHypergraph,
    interaction_matrix,
    knn_incidence,
)
from recbole_hellm.models.losses import bpr_loss, hypergraph_contrast, l2_regularisation
from recbole_hellm.training.memory import keep_freed_memory

SIZES = {  # users, items, training interactions
    "small": (4_000, 2_500, 27_000),
    "beauty": (22_363, 12_101, 153_776),
    "toys": (19_412, 11_924, 128_773),
    "sports": (35_598, 18_357, 225_141),
}
TAU, REGULARISATION, ALPHA, BETA = 0.5, 1e-4, 0.9, 0.1
RELEASED_CHUNK = 4096
Vectors = tuple[Tensor, Tensor, Tensor, Tensor]
Batch = tuple[Tensor, Tensor, Tensor]


def synthetic_interactions(
    n_users: int, n_items: int, n_pairs: int, rng: np.random.Generator
) -> sp.csr_array:
    """Uniform users; items drawn with probability proportional to (rank + 20)^-0.63.

    At Beauty's size that gives as many user-user entries as the real data, 5.3 million.
    """
    popularity = (np.arange(n_items) + 20.0) ** -0.63
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < n_pairs:
        users = rng.integers(0, n_users, n_pairs)
        items = rng.choice(n_items, n_pairs, p=popularity / popularity.sum())
        keys = np.unique(np.concatenate([keys, users * n_items + items]))
    keys = rng.permutation(keys)[:n_pairs]
    return interaction_matrix(keys // n_items, keys % n_items, n_users, n_items)


@dataclasses.dataclass
class Problem:
    """A synthetic data set and the four embedding tables of HeLLM's first stage."""

    interactions: sp.csr_array
    incidence: sp.csr_array
    tables: list[Tensor]

    @classmethod
    def synthetic(
        cls, n_users: int, n_items: int, n_pairs: int, dim: int, device: torch.device, seed: int
    ) -> Problem:
        """Synthetic interactions, features in fifty clusters, and Xavier's embeddings."""
        rng = np.random.default_rng(seed)
        interactions = synthetic_interactions(n_users, n_items, n_pairs, rng)
        features = (
            rng.normal(size=(n_items, 64)) + rng.normal(size=(50, 64))[np.arange(n_items) % 50]
        )
        torch.manual_seed(seed)
        tables = [
            torch.nn.init.xavier_uniform_(torch.empty(rows, dim)).to(device).requires_grad_()
            for rows in (n_users, n_items, n_users, n_items)
        ]
        return cls(
            interactions,
            knn_incidence({"text": features.astype(np.float32)}, 10),
            tables,
        )

    def batch(self, size: int, step: int) -> Batch:
        """Users, and items as positives and negatives; which they are does not change the cost."""
        generator = torch.Generator().manual_seed(step)
        n_users, n_items = self.interactions.shape
        limits = (n_users, n_items, n_items)
        device = self.tables[0].device
        users, positives, negatives = (
            torch.randint(limit, (size,), generator=generator).to(device) for limit in limits
        )
        return users, positives, negatives


# The released formulation -------------------------------------------------------------------------


def coo(matrix: sp.csr_array, device: torch.device) -> Tensor:
    """A torch COO tensor."""
    entries = sp.coo_array(matrix.astype(np.float32))
    index = torch.from_numpy(np.stack(entries.coords).astype(np.int64))
    values = torch.from_numpy(entries.data)
    return torch.sparse_coo_tensor(index, values, entries.shape, check_invariants=False).to(device)


def scaled(matrix: sp.csr_array, left: float, right: float) -> sp.csr_array:
    """``D^left matrix D^right`` with D the row sums."""
    degree = np.maximum(matrix.sum(axis=1), 1e-12)
    return sp.csr_array(sp.diags_array(degree**left) @ matrix @ sp.diags_array(degree**right))


def released_encoder(problem: Problem) -> Callable[[], Vectors]:
    """Propagation by precomputed products; fused and hypergraph vectors of users, then items."""
    a, h = problem.interactions, problem.incidence
    device, (n_users, n_items) = problem.tables[0].device, a.shape
    shared = sp.csr_array(a @ a.T)
    shared.setdiag(0)
    shared.eliminate_zeros()
    user_user = coo(scaled(shared, -1.0, 0.0), device)
    item_item = coo(scaled(sp.csr_array(h @ h.T), -0.5, -0.5), device)
    both = coo(scaled(sp.csr_array(sp.block_array([[None, a], [a.T, None]])), -0.5, -0.5), device)
    print(
        f"entries: user-user {user_user._nnz():,}, item-item {item_item._nnz():,}; "
        f"factored: {a.nnz:,} and {h.nnz:,}"
    )

    def encode() -> Vectors:
        user, item, user_hyper, item_hyper = problem.tables
        layers = [torch.cat([user, item])]
        for _ in range(2):
            layers.append(torch.sparse.mm(both, layers[-1]))
            user_hyper = torch.sparse.mm(user_user, user_hyper)
        item_hyper = torch.sparse.mm(item_item, item_hyper)
        user, item = torch.stack(layers, dim=1).mean(1).split([n_users, n_items])
        return (
            user + F.normalize(user_hyper, dim=1),
            user_hyper,
            item + F.normalize(item_hyper, dim=1),
            item_hyper,
        )

    return encode


def released_contrast(fused: Tensor, hyper: Tensor) -> Tensor:
    """Equation 7 over all nodes in row chunks, every exponential kept for autograd."""
    fused, hyper = F.normalize(fused, dim=1), F.normalize(hyper, dim=1)
    losses = []
    for rows, views in zip(fused.split(RELEASED_CHUNK), hyper.split(RELEASED_CHUNK), strict=True):
        within = torch.exp(rows @ fused.T / TAU).sum(1)
        between = torch.exp(rows @ hyper.T / TAU).sum(1)
        own = torch.exp((rows * views).sum(1) / TAU)
        losses.append(-torch.log(own / (within + between)))
    return torch.cat(losses).mean()


# This package's formulation -----------------------------------------------------------------------


def factored_encoder(problem: Problem) -> Callable[[], Vectors]:
    """Propagation by factors."""
    a, device = problem.interactions, problem.tables[0].device
    users, items = a.nonzero()
    graph = BipartiteGraph(users, items, *a.shape).to(device)
    user_graph = UserHypergraph(a).to(device)
    item_graph = ItemHypergraph(problem.incidence).to(device)

    def encode() -> Vectors:
        user, item = graph.light_gcn(problem.tables[0], problem.tables[1], 2)
        user_hyper = user_graph.propagate(problem.tables[2], 2)
        item_hyper = item_graph.propagate(problem.tables[3], 1)
        return (
            user + F.normalize(user_hyper, dim=1),
            user_hyper,
            item + F.normalize(item_hyper, dim=1),
            item_hyper,
        )

    return encode


def fused_contrast(anchors: int | None, gather: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The contrast of `anchors` nodes (None: all) against all nodes, or against one another."""

    def contrast(fused: Tensor, hyper: Tensor) -> Tensor:
        if anchors is None or anchors >= len(fused):
            return hypergraph_contrast(fused, hyper, TAU)
        rows = torch.randperm(len(fused), device=fused.device)[:anchors]
        if gather:
            return hypergraph_contrast(fused[rows], hyper[rows], TAU)
        return hypergraph_contrast(fused, hyper, TAU, rows)

    return contrast


# Timing -------------------------------------------------------------------------------------------


def total_loss(
    vectors: Vectors, contrast: Callable[[Tensor, Tensor], Tensor], batch: Batch
) -> Tensor:
    """Equation 12."""
    user, user_hyper, item, item_hyper = vectors
    rows = user[batch[0]], item[batch[1]], item[batch[2]]
    loss = bpr_loss((rows[0] * rows[1]).sum(1), (rows[0] * rows[2]).sum(1))
    loss = loss + REGULARISATION * l2_regularisation(rows, len(batch[0]))
    return loss + ALPHA * contrast(user, user_hyper) + BETA * contrast(item, item_hyper)


def measure(
    problem: Problem,
    encode: Callable[[], Vectors],
    contrast: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
    steps: int,
) -> tuple[float, float]:
    """Loss of the first step, and the median seconds of `steps` steps after one warm-up."""
    # Every formulation starts from the same weights.
    start = [table.detach().clone() for table in problem.tables]
    optimizer = torch.optim.Adam(problem.tables, lr=1e-4, fused=True)
    losses, seconds = [], []
    for step in range(steps + 1):
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = total_loss(encode(), contrast, problem.batch(batch_size, step))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())  # also waits for a GPU
        seconds.append(time.perf_counter() - begun)
    with torch.no_grad():
        for table, values in zip(problem.tables, start, strict=True):
            table.copy_(values)
    return losses[0], statistics.median(seconds[1:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1024, help="triples in a step")
    parser.add_argument("--anchors", type=int, default=1024, help="sampled anchors on each side")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each formulation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-released", action="store_true")
    parser.add_argument("--skip-full", action="store_true", help="skip all that has all anchors")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    problem = Problem.synthetic(*SIZES[options.size], options.dim, device, options.seed)
    n_users, n_items, n_pairs = SIZES[options.size]
    print(
        f"{n_users:,} users, {n_items:,} items, {n_pairs:,} interactions; torch {torch.__version__}"
    )
    print(f"{device}, {options.threads} CPU threads, batch {options.batch}, d = {options.dim}")

    factored = factored_encoder(problem)
    sampled = f"{options.anchors} anchors"
    runs: list[tuple[str, Callable[[], Vectors], Callable[[Tensor, Tensor], Tensor]]] = [
        ("factored, all anchors", factored, fused_contrast(None, False)),
        (f"factored, {sampled} against all", factored, fused_contrast(options.anchors, False)),
        (f"factored, {sampled} among themselves", factored, fused_contrast(options.anchors, True)),
    ]
    if options.skip_full:
        runs.pop(0)
    with_released = not (options.skip_released or options.skip_full)
    if with_released:
        runs.insert(0, ("released", released_encoder(problem), released_contrast))
    results = []
    for name, encode, contrast in runs:
        results.append(measure(problem, encode, contrast, options.batch, options.steps))
        loss, seconds = results[-1]
        ratio = "" if not with_released else f"{results[0][1] / seconds:9.1f}x"
        print(f"{name:<45}{seconds:10.4f} s/step{ratio}   loss {loss:.6f}")
    if device.type == "cpu" and keep_freed_memory():
        loss, kept = measure(problem, encode, contrast, options.batch, options.steps)
        print(
            f"{'the last, freed memory kept':<45}{kept:10.4f} s/step   loss {loss:.6f}   "
            f"{seconds / kept:.2f} times as fast as the last"
        )
    if with_released:
        difference = abs(results[1][0] / results[0][0] - 1)
        print(f"relative difference of the full losses: {difference:.1e}")
        if difference > 1e-4:
            raise SystemExit("the two formulations disagree")


if __name__ == "__main__":
    main()
