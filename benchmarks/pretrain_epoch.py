"""Time a whole epoch of HeLLM_pre: sampling, steps and validation, beside the literal formulation.

The package's side is its own loader, trainer and evaluator on a prepared dataset. The literal side
is the released formulation of `pretrain_step.py` on the same interactions and item hypergraph; a
few of its steps are timed and multiplied by the steps of an epoch, without sampling and validation.

The limit of a step is what it must at least move and multiply, at the speeds of memory and of
matrix products measured in the same run: Adam reads and writes the four tables (seven passes), each
sparse product reads its table and writes its result, and the contrasts multiply their anchors.

    python benchmarks/pretrain_epoch.py --dataset=Beauty --threads=2
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Goal, copied_bytes_per_second, multiplied_per_second, print_result
from pretrain_step import Problem, measure, released_contrast, released_encoder
from recbole.utils import init_seed
from torch.profiler import ProfilerActivity, profile

from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.graph import interaction_matrix, knn_incidence
from recbole_hellm.models.general.base import xavier
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.opening import build_model, open_dataset, open_splits
from recbole_hellm.training.memory import keep_freed_memory

FLOAT = 4
"""Bytes of a number."""


def seconds_of(work: Any) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def limit(model: Any) -> tuple[float, float]:
    """Bytes that a step must move, and operations of its contrasts, at least."""
    network, s = model.network, model.settings
    tables = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    users, items = len(network.user_hyper_table), len(network.item_hyper_table)
    edges = network.item_hypergraph.incidence.shape[1]
    # A product over users and items both ways, forward and backward, for each layer.
    rows = 2 * 2 * (users + items) * (s.n_layers_ui + s.n_layers_u2u)
    rows += 2 * 2 * (items + edges) * s.n_layers_i2i
    moved = FLOAT * (7 * tables + rows * s.embedding_size)
    sides = [min(s.contrast_anchors, count) for count in (users, items)]
    # Similarities to both views, and their gradients to anchors and to keys.
    multiplied = sum(3 * 2 * side * 2 * side * s.embedding_size for side in sides)
    return moved, multiplied


def gathered_bytes(network: Any) -> int:
    """Bytes of the rows that a step's products of the graphs read, one for each entry."""
    s = network.settings
    entries = 2 * network.user_hypergraph.gather.nnz * (s.n_layers_ui + s.n_layers_u2u)
    entries += 2 * network.item_hypergraph.incidence.nnz * s.n_layers_i2i
    return 2 * entries * s.embedding_size * FLOAT  # forward and backward


OPERATIONS = {
    "sparse_products": ("embedding_bag", "embedding_bag_forward_only"),
    "contrast_products": ("mm", "addmm"),
    "optimiser": ("fused_adam",),
    "gathers": ("index_select", "scatter_add", "index_add"),
    "elementwise": ("mul", "add", "exp", "div", "sum", "fill", "masked_fill", "addcmul", "copy"),
}
"""PyTorch's names of a step's operations, by kind."""


def shares(trainer: Any, loader: Any, steps: int = 10) -> dict[str, float]:
    """Shares of each kind of operations in the time of a few steps, from PyTorch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        trainer._train_epoch(list(itertools.islice(loader, steps)), 0)
    kinds = {name: kind for kind, names in OPERATIONS.items() for name in names}
    seconds = dict.fromkeys((*OPERATIONS, "rest"), 0.0)
    for row in profiled.key_averages():
        name = row.key.removeprefix("aten::").strip("_")
        seconds[kinds.get(name, "rest")] += row.self_cpu_time_total
    total = sum(seconds.values())
    return {f"share_of_{kind}": value / total for kind, value in seconds.items()}


def literal_seconds(
    network: Any, interactions: Any, incidence: Any, batch: int, steps: int
) -> float:
    """Seconds of a step in the literal formulation."""
    (n_users, n_items), d = interactions.shape, network.settings.embedding_size
    tables = [xavier(n, d).detach().requires_grad_() for n in (n_users, n_items) * 2]
    problem = Problem(interactions, incidence, tables)
    encode = released_encoder(problem)
    return measure(problem, encode, released_contrast, batch, steps)[1]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="Beauty")
    parser.add_argument("--data-path", default="dataset")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs, after one")
    parser.add_argument("--literal-steps", type=int, default=2)
    options = parser.parse_args()
    settings = {"data_path": options.data_path, "threads": options.threads}
    config = HellmConfig("HeLLMPre", options.dataset, settings)
    keep_freed_memory()
    dataset = open_dataset(config, features=True)
    init_seed(config["seed"], True)
    parts, evaluator = open_splits(config, dataset)
    model = build_model(config, parts[0])
    loader = training_loader(config, dataset, parts, model)
    with tempfile.TemporaryDirectory() as folder:
        config["checkpoint_dir"] = folder
        trainer = config.trainer_class()(config, model, RunDirectory(Path(folder)), evaluator)
        sampling, training, validation = [], [], []
        for epoch in range(options.epochs + 1):
            sampling.append(seconds_of(lambda: sum(1 for _ in loader)))
            training.append(
                seconds_of(lambda number=epoch: trainer._train_epoch(loader, number))  # type: ignore[misc]
            )
            validation.append(seconds_of(lambda: trainer.evaluate_phase("valid")))
    sample, train, validate = (
        statistics.median(seconds[1:]) for seconds in (sampling, training, validation)
    )
    by_kind = shares(trainer, loader)
    steps = len(loader)
    moved, multiplied = limit(model)
    bandwidth, speed = copied_bytes_per_second(), multiplied_per_second()
    least = moved / bandwidth + multiplied / speed
    features = {name: entry.matrix for name, entry in dataset.item_features().items()}
    part = parts[0].inter_feat
    users, items = (np.asarray(part[field]) - 1 for field in (dataset.uid_field, dataset.iid_field))
    literal = literal_seconds(
        model.network,
        interaction_matrix(users, items, dataset.user_num - 1, dataset.item_num - 1),
        knn_incidence(features, model.settings.knn_k),
        config["train_batch_size"],
        options.literal_steps,
    )
    epoch_seconds, step = train + validate, (train - sample) / steps
    gathered = gathered_bytes(model.network)
    gathered_speed = gathered / (by_kind["share_of_sparse_products"] * step)
    ratio = literal * steps / train
    print_result(
        "pretrain_epoch",
        {
            "steps": steps,
            "epoch_seconds": epoch_seconds,
            "sampling_seconds": sample,
            "training_seconds": train,
            "validation_seconds": validate,
            "step_seconds": step,
            "literal_step_seconds": literal,
            "literal_epoch_seconds_extrapolated": literal * steps,
            "ratio": ratio,
            "least_step_seconds": least,
            "step_over_least": step / least,
            "bytes_per_second": bandwidth,
            "operations_per_second": speed,
            "bytes_per_step": moved,
            "operations_per_step": multiplied,
            "gathered_bytes_per_step": gathered,
            "gathered_bytes_per_second": gathered_speed,
        }
        | by_kind,
        (
            Goal("seconds of an epoch with validation", epoch_seconds, 5),
            Goal("times as fast as the literal formulation", ratio, 500, False),
        ),
        f"A step needs at least {moved / bandwidth * 1e3:.1f} ms of memory and "
        f"{multiplied / speed * 1e3:.1f} ms of products, and takes {step * 1e3:.1f} ms; sampling "
        f"takes {sample / train:.1%} of training. Of a step's operations, products of the graphs "
        f"are {by_kind['share_of_sparse_products']:.0%}, those of the contrast "
        f"{by_kind['share_of_contrast_products']:.0%}, element-wise ones "
        f"{by_kind['share_of_elementwise']:.0%}, Adam {by_kind['share_of_optimiser']:.0%}. The "
        "least reads each table once in a product; a graph's product reads a row for each entry, "
        f"{gathered / 1e6:,.0f} MB a step, at {gathered_speed / 1e9:.0f} GB/s, where copying "
        f"reaches {bandwidth / 1e9:.0f} GB/s.",
    )


if __name__ == "__main__":
    main()
