"""Time this package's evaluator beside RecBole's own, on the same scores of a dot-product model.

Both rank all items for all test users with seen items masked and compute Recall, NDCG, MRR and Hit
at 10 and 20; the metrics are checked to be equal. RecBole's evaluator runs at its default batch
size and at larger ones, and the fastest counts. Building its loader is not timed.

    python benchmarks/evaluation.py --dataset=Beauty --threads=2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from measuring import Goal, median_seconds, multiplied_per_second, print_result
from recbole.data.utils import create_samplers, get_dataloader
from recbole.trainer import Trainer

from recbole_hellm import compat
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.runs.opening import build_model, open_dataset, open_splits
from recbole_hellm.training.memory import keep_freed_memory

BATCHES = (4096, 1 << 18, 1 << 20, 1 << 22)
"""RecBole's default, and more: scores that are made at a time."""
NAMES = ["Recall", "NDCG", "MRR", "Hit"]


def recbole_seconds(
    config: Any, model: Any, loaded: tuple[Any, list[Any]], batch: int
) -> tuple[float, dict[str, float]]:
    """Seconds and metrics of RecBole's evaluator."""
    config["eval_batch_size"] = batch
    dataset, parts = loaded
    sampler = create_samplers(config, dataset, parts)[-1]
    loader = get_dataloader(config, "test")(config, parts[-1], sampler, shuffle=False)
    with tempfile.TemporaryDirectory() as folder:
        config["checkpoint_dir"] = folder
        with compat.tensorboard_writer(None):
            trainer = Trainer(config, model)
    begun = time.perf_counter()
    found = trainer.evaluate(loader, load_best_model=False)
    return time.perf_counter() - begun, dict(found)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="Beauty")
    parser.add_argument("--data-path", default="dataset")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", type=int, default=5, help="timed evaluations of this package")
    options = parser.parse_args()
    # A model's vectors at the start are as good as others, and it has few ties.
    settings = {"data_path": options.data_path, "threads": options.threads, "metrics": NAMES}
    config = HellmConfig("LightGCN", options.dataset, settings)
    keep_freed_memory()  # as runs do; both sides profit
    dataset = open_dataset(config, features=False)
    parts, evaluator = open_splits(config, dataset)
    model = build_model(config, parts[0])
    model.eval()
    found = evaluator.evaluate(model, "test", ("seen",))
    ours = median_seconds(
        lambda: evaluator.evaluate(model, "test", ("seen",)).metrics, options.times
    )
    seconds = {}
    for batch in BATCHES:
        seconds[batch], theirs = recbole_seconds(config, model, (dataset, parts), batch)
        for name, value in found.metrics["seen"].items():
            if abs(value - theirs[name]) > 1e-6:
                raise SystemExit(f"{name} is {value} here and {theirs[name]} in RecBole")
    best = min(seconds, key=seconds.__getitem__)
    users, items = dataset.user_num - 1, dataset.item_num - 1
    floor = 2 * users * items * config["embedding_size"] / multiplied_per_second()
    print_result(
        "evaluation",
        {
            "users": users,
            "items": items,
            "seconds": ours,
            "recbole_seconds_at_default": seconds[BATCHES[0]],
            "recbole_seconds_at_best": seconds[best],
            "recbole_best_eval_batch_size": best,
            "ratio_to_default": seconds[BATCHES[0]] / ours,
            "ratio": seconds[best] / ours,
            "seconds_of_scores_alone": floor,
        },
        (
            Goal(
                "times as fast as RecBole's evaluator at its best", seconds[best] / ours, 10, False
            ),
            Goal(f"seconds for all {users:,} users", ours, 3),
        ),
        f"The products that make the scores need {floor:.2f} s at the speed of this run, so no "
        f"evaluator is more than {seconds[best] / floor:.1f} times as fast as RecBole's at its "
        "best. The rest writes the scores and compares each with the target's.",
    )


if __name__ == "__main__":
    main()
