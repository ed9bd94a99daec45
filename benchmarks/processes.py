"""Compare the training of one process with that of several, for the same batches.

Each process has one thread. The data are synthetic and there is no dropout, so that all come to the
same weights but for rounding; the largest difference of a metric is printed with the seconds. Run
it on a machine with nothing else to do.

    python benchmarks/processes.py --size=smoke  # a minute; tells nothing of speed
    python benchmarks/processes.py --model=SASRec --size=beauty
    python benchmarks/processes.py --model=HeLLMPre --size=beauty --processes=4

The only line of output is JSON: seconds of the fastest epoch and of the test, how many times as
fast several processes are, and the largest difference of their metrics.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import Goal, print_result

SIZES = {  # users, items, interactions
    "smoke": (60, 40, 600),
    "small": (4_000, 2_500, 36_000),
    "beauty": (22_363, 12_101, 198_502),
}
WIDTH = 64
"""Numbers of an item's features."""
SETTINGS: dict[str, dict[str, Any]] = {
    "SASRec": {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0},
    "HeLLMPre": {},
}
BATCH = {"SASRec": 2048, "HeLLMPre": 1024}


def write_data(folder: Path, size: str, seed: int) -> None:
    """Write a synthetic dataset with features, named like its folder."""
    from recbole_hellm.data.features.store import save_features

    n_users, n_items, n_interactions = SIZES[size]
    rng = np.random.default_rng(seed)
    popularity = (np.arange(n_items) + 20.0) ** -0.63
    users = np.concatenate(
        [np.repeat(np.arange(n_users), 5), rng.integers(n_users, size=n_interactions - 5 * n_users)]
    )
    items = rng.choice(n_items, size=n_interactions, p=popularity / popularity.sum())
    items[:n_items] = np.arange(n_items)  # each at least once
    frame = pd.DataFrame(
        {
            "user_id:token": [f"u{user}" for user in users],
            "item_id:token": [f"i{item}" for item in items],
            "timestamp:float": rng.integers(10**6, size=n_interactions),
        }
    )
    folder.mkdir(parents=True)
    frame.to_csv(folder / f"{folder.name}.inter", sep="\t", index=False)
    tokens = sorted(frame["item_id:token"].unique())
    vectors = (
        rng.normal(size=(len(tokens), WIDTH))
        + rng.normal(size=(50, WIDTH))[np.arange(len(tokens)) % 50]
    )
    save_features(folder, "text", "synthetic", tokens, vectors.astype(np.float32))


def train(root: Path, options: argparse.Namespace, processes: int) -> dict[str, Any]:
    """Train by so many processes; seconds of each epoch and the record's metrics."""
    from recbole_hellm import load_run
    from recbole_hellm.tracking.curves import read_curves

    settings = SETTINGS[options.model] | {
        "data_path": str(root / "data"),
        "runs_dir": str(root / f"runs-{processes}"),
        "epochs": options.epochs,
        "train_batch_size": options.batch or BATCH[options.model],
        "seed": options.seed,
        "threads": 1,
        "use_gpu": False,
        "show_progress": False,
    }
    command = [sys.executable, "-m"]
    if processes > 1:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        command += ["torch.distributed.run", f"--nproc_per_node={processes}"]
        command += ["--master_addr=127.0.0.1", f"--master_port={port}", "-m"]
    command += ["recbole_hellm", "run", f"--model={options.model}", "--dataset=synthetic"]
    command += [f"--{key}={value}" for key, value in settings.items()]
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, env=os.environ | alone
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    result = load_run(root / f"runs-{processes}/synthetic" / options.model)
    cost = result.record["cost"]
    if cost["processes"] != processes:
        raise SystemExit(f"{cost['processes']} processes have trained instead of {processes}")
    return {
        "epochs": [value for _, value in read_curves(result.path)["cost/seconds_per_epoch"]],
        "test_seconds": cost["test_seconds"],
        "metrics": result.record["test"][result.record["masking"]],
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SETTINGS, default="SASRec")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, help="rows of a batch of all processes together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root / "data" / "synthetic", options.size, options.seed)
        one, several = (train(root, options, count) for count in (1, options.processes))
    differences = {name: several["metrics"][name] - value for name, value in one["metrics"].items()}
    largest, fastest = max(map(abs, differences.values())), min(one["epochs"])
    ratio = fastest / min(several["epochs"])
    print_result(
        f"processes_{options.model.lower()}",
        {
            "size": options.size,
            "batch": options.batch or BATCH[options.model],
            "processes": options.processes,
            "threads_each": 1,
            "epochs": options.epochs,
            "seconds_of_the_fastest_epoch": min(several["epochs"]),
            "seconds_with_one_process": fastest,
            "seconds_of_the_test": several["test_seconds"],
            "seconds_of_the_test_with_one_process": one["test_seconds"],
            "ratio": ratio,
            "largest_difference_of_a_metric": largest,
        },
        (
            Goal("largest difference of a metric from one process", largest, 1e-3),
            Goal("times as fast as one process", ratio, 1, at_most=False),
        ),
        "Rows are divided; propagation over the graph, keys of contrasts, Adam and the sum of "
        "gradients are not (docs/processes.md).",
    )


if __name__ == "__main__":
    main()
