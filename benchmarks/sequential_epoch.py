"""Time an epoch of SASRec and of HeLLM's `tiny` beside RecBole's SASRec as it is shipped.

RecBole's side is its model, loader and trainer with the same rows, loss, batch size, optimiser and
learning rate. Importing RecBole's sequential models switches autograd's anomaly mode on, which is
how it is shipped; it is timed without, too. Each side starts with the same seed, and all are ranked
on validation by one evaluator, since a faster epoch that learns less would be no gain.

    python benchmarks/sequential_epoch.py --dataset=Beauty --threads=2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import Goal, print_result
from recbole.data.utils import create_samplers, get_dataloader
from recbole.trainer import Trainer
from recbole.utils import init_seed

from recbole_hellm import compat, run
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.interactions.loaders import training_loader
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.opening import build_model, open_dataset, open_splits


class Side:
    """A model with its loader and trainer.

    Parameters
    ----------
    config : HellmConfig
    shipped : bool
        Whether loader and trainer are RecBole's.
    folder : str
        For what trainers write.
    anomaly : bool
        Whether autograd looks for NaN in all gradients.
    """

    def __init__(self, config: Any, shipped: bool, folder: str, anomaly: bool = False) -> None:
        self.anomaly = anomaly
        dataset = open_dataset(config, features=False)
        parts, self.evaluator = open_splits(config, dataset)
        init_seed(config["seed"], True)
        self.model = build_model(config, parts[0])
        config["checkpoint_dir"] = folder
        if shipped:
            sampler = create_samplers(config, dataset, parts)[0]
            self.loader = get_dataloader(config, "train")(config, parts[0], sampler, shuffle=True)
            with compat.tensorboard_writer(None):
                self.trainer: Any = Trainer(config, self.model)
        else:
            self.loader = training_loader(config, dataset, parts, self.model)
            directory = RunDirectory(Path(folder))
            self.trainer = config.trainer_class()(config, self.model, directory, self.evaluator)

    def epoch(self, number: int) -> float:
        """Train an epoch; its seconds."""
        begun = time.perf_counter()
        with torch.autograd.set_detect_anomaly(self.anomaly):
            self.trainer._train_epoch(self.loader, number, show_progress=False)
        return time.perf_counter() - begun

    def score(self) -> float:
        """NDCG@10 on validation."""
        return self.evaluator.evaluate(self.model, "valid", ("seen",)).metrics["seen"]["ndcg@10"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="Beauty")
    parser.add_argument("--data-path", default="dataset")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs-dir", default="runs", help="where HeLLM's stages are, or will be")
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs of each side")
    options = parser.parse_args()
    common = {"data_path": options.data_path, "threads": options.threads}
    adam = {"learner": "adam", "scheduler": "none", "learning_rate": 1e-3}
    shipped = common | adam | {"bucket_by_length": False}
    sides: dict[str, Callable[[str], Side]] = {
        "recbole": lambda folder: Side(
            HellmConfig("SASRec", options.dataset, shipped), True, folder, anomaly=True
        ),
        "recbole_without_anomaly_mode": lambda folder: Side(
            HellmConfig("SASRec", options.dataset, shipped), True, folder
        ),
        "sasrec": lambda folder: Side(
            HellmConfig("SASRec", options.dataset, common | adam), False, folder
        ),
    }
    figures: dict[str, Any] = {"epochs": options.epochs}
    for name, side in sides.items():
        with tempfile.TemporaryDirectory() as folder:
            built = side(folder)
            seconds = [built.epoch(number) for number in range(options.epochs)]
            figures[f"{name}_seconds"] = min(seconds)
            figures[f"{name}_valid_ndcg@10"] = built.score()
    tiny = run(
        "HeLLM",
        options.dataset,
        **common,
        runs_dir=options.runs_dir,
        epochs=options.epochs,
        force=True,
        show_progress=False,
    )
    figures["hellm_tiny_seconds"] = tiny.record["cost"]["train_seconds"] / options.epochs
    figures["hellm_tiny_valid_ndcg@10"] = tiny.metrics("valid", "seen")["ndcg@10"]
    ratios = {
        name: figures["recbole_seconds"] / figures[f"{name}_seconds"]
        for name in ("sasrec", "hellm_tiny")
    }
    figures |= {f"{name}_ratio": ratio for name, ratio in ratios.items()}
    plain = figures["recbole_without_anomaly_mode_seconds"]
    goals = []
    for name, ratio in ratios.items():
        better = figures[f"{name}_valid_ndcg@10"] - figures["recbole_valid_ndcg@10"]
        goals += [
            Goal(f"{name}: times as fast as RecBole's SASRec", ratio, 2, False),
            Goal(f"{name}: NDCG@10 on validation above RecBole's", better, -0.002, False),
        ]
    print_result(
        "sequential_epoch",
        figures,
        tuple(goals),
        f"Without anomaly mode RecBole's epoch takes {plain:.1f} s of its "
        f"{figures['recbole_seconds']:.1f} s; histories that are padded to the longest of a batch "
        "instead of to 50 items save the rest.",
    )


if __name__ == "__main__":
    main()
