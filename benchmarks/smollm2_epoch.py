"""Measure an epoch of HeLLM on SmolLM2's shape on a CPU: the former computation beside today's.

    python benchmarks/smollm2_epoch.py --threads=2                    # some minutes
    python benchmarks/smollm2_epoch.py --threads=2 --task=paper       # prompt, a sample per target
    python benchmarks/smollm2_epoch.py --threads=2 --prefix=graph --types bfloat16:bfloat16

Two networks with the same weights train and score the same batches, turn by turn: *former* has
transformers' own feed-forward layers and norms, peft's LoRA, item tokens and item head in float32,
and item weights computed anew for each batch of users; *package* is the package. Each block names
the type of both backbones' weights; float32 is the default on a CPU. Printed are the differences of
their losses and scores (without dropout, before any step), the rates of both, and medians over
batches of the ratios of wall and of processor time.

The backbone has random weights of SmolLM2-135M's shape (576 wide, 9 heads, 3 key heads), unless
``--backbone`` names a folder; the time does not depend on the values. Histories are synthetic, as
long as Amazon Beauty's, or come from RecBole's atomic file.

Needs torch, transformers, peft and pandas, but not RecBole.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from llm_throughput import TOP, scored
from llm_work import (
    INSTRUCTION,
    LIMIT,
    RESPONSE,
    Batch,
    evaluation,
    padded,
    read_histories,
    synthetic_histories,
    training,
)
from torch import Tensor
from transformers import AutoModel, LlamaConfig, LlamaModel

from recbole_hellm.data.interactions.batches import BucketedBatches, sequence_rows
from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.models.llm import HeLLMNetwork, LLMSettings, wrap_backbone
from recbole_hellm.models.llm.prompt import PromptTokens
from recbole_hellm.models.losses import linear_cross_entropy

SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
         "num_key_value_heads": 3, "rope_theta": 100_000.0}  # fmt: skip
BATCHES = {"every": 768, "paper": 64}
TYPES = ("float32:bfloat16", "bfloat16:bfloat16", "float32:float32")
EXACT, ROUNDED = 1e-4, 0.03  # bounds of the differences in float32 and with bfloat16
Step = Callable[[Batch], None]


class FormerNetwork(HeLLMNetwork):
    """The network as it computed before: everything but the decoder in float32, nothing kept."""

    def _table(self) -> Tensor | None:
        return self.tokens.all() if self.head.tied else None

    def item_weights(self) -> Tensor:
        """Item weights, computed anew."""
        return self.head.weights(self._table())

    def _reads_last_alone(self, lengths: Tensor) -> bool:
        return False

    def _cross_entropy(self, hidden: Tensor, target: Tensor, table: Tensor | None) -> Tensor:
        weights = self.head.weights(table)
        return linear_cross_entropy(self.head.read_out(hidden), weights, target - 1)


def build(options: argparse.Namespace, dtype: str, n_items: int, former: bool) -> HeLLMNetwork:
    """A network on a frozen backbone; the same weights for the same options."""
    every = options.task == "every"
    settings = LLMSettings(
        backbone=str(options.backbone or "random"),
        prompt="none",
        prefix=options.prefix,
        targets="every" if every else "last",
        head="tied" if every else "linear",
        item_vectors=every,
        train_item_tables=every,
        normalise_tables=every,
    )
    torch.manual_seed(options.seed)
    torch.set_default_dtype(getattr(torch, dtype))
    if options.backbone:
        model = AutoModel.from_pretrained(
            options.backbone, num_hidden_layers=options.layers, dtype=getattr(torch, dtype)
        )
    else:
        model = LlamaModel(LlamaConfig(vocab_size=512, num_hidden_layers=options.layers, **SHAPE))
    torch.set_default_dtype(torch.float32)
    replaced = mock.patch("recbole_hellm.models.llm.backbone.replace_layers")
    if former:
        with replaced:
            backbone = wrap_backbone(model, settings)
    else:
        backbone = wrap_backbone(model, settings)
    torch.manual_seed(options.seed + 1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zeros hide what they are multiplied with
            torch.nn.init.normal_(parameter, std=0.01)
    tables = {name: torch.randn(n_items + 1, 64) for name in ("graph", "sequence")}
    network = (FormerNetwork if former else HeLLMNetwork)(settings, tables, backbone=backbone)
    if not every:
        words = torch.randint(0, 512, (INSTRUCTION + RESPONSE,)).tolist()
        network.prompt = PromptTokens(words[:INSTRUCTION], words[INSTRUCTION:])
        network.set_up_passes(network.model)
    return network


def sequences(histories: Histories, size: int, seed: int) -> list[Batch]:
    """Batches of an epoch of whole training sequences, `size` targets each."""
    _, starts, lengths, targets = sequence_rows(histories, LIMIT)
    return [
        (padded(histories, starts[rows], lengths[rows]), torch.from_numpy(lengths[rows]), Tensor())
        for rows in BucketedBatches(lengths, size, seed, targets)
    ]


def loss_of(network: HeLLMNetwork, every: bool, batch: Batch) -> Tensor:
    """The training loss of a batch."""
    return network.sequence_loss(batch[0]) if every else network.loss(*batch)


def training_step(network: HeLLMNetwork, every: bool) -> Step:
    """Forward, backward, AdamW."""
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        loss_of(network, every, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def scoring_step(network: HeLLMNetwork) -> Step:
    """Scores of all items, the best of them."""

    @torch.no_grad()
    def step(batch: Batch) -> None:
        scored(network, batch[0], batch[1]).topk(TOP)

    return step


def compare(name: str, steps: list[Step], batches: list[Batch], samples: int) -> None:
    """Run both steps on every batch in turn; print their rates and the ratios of their times."""
    wall, processor = [], []
    for number, batch in enumerate(batches):
        order = (0, 1) if number % 2 else (1, 0)
        spent = [(0.0, 0.0)] * 2
        for which in order:
            begun = time.perf_counter(), time.process_time()
            steps[which](batch)
            spent[which] = time.perf_counter() - begun[0], time.process_time() - begun[1]
        if number >= 2:  # the first two are the warm-up
            wall.append([one for one, _ in spent])
            processor.append([one for _, one in spent])
    share = samples * len(wall) / len(batches)
    former, package = (share / sum(times) for times in zip(*wall, strict=True))
    by_wall, by_processor = (statistics.median(a / b for a, b in t) for t in (wall, processor))
    print(
        f"{name:<26} {former:>9.1f} {package:>9.1f} {by_wall:>8.2f} {by_processor:>10.2f}",
        flush=True,
    )


def differences(networks: list[HeLLMNetwork], every: bool, batch: Batch, users: Batch) -> float:
    """Print and return the largest relative difference of losses and scores, without dropout."""
    dropped = [m for one in networks for m in one.modules() if isinstance(m, torch.nn.Dropout)]
    rates = [module.p for module in dropped]
    for module in dropped:
        module.p = 0.0
    with torch.no_grad():
        losses = [loss_of(network.train(), every, batch) for network in networks]
        scores = [scored(network.eval(), users[0], users[1]) for network in networks]
    for module, rate in zip(dropped, rates, strict=True):
        module.p = rate
    apart = float((losses[0] - losses[1]).abs() / losses[0])
    scale = scores[0].std()
    distance = float((scores[0] - scores[1]).square().mean().sqrt() / scale)
    print(
        f"losses {float(losses[0]):.5f} and {float(losses[1]):.5f}, apart by {apart:.1e}; scores "
        f"apart by {distance:.1e} of their deviation"
    )
    return max(apart, distance)


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=BATCHES, default="every")
    parser.add_argument("--prefix", choices=["graph", "static", "none"])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES, help="of both paths")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--backbone", type=Path, help="folder of a decoder; random weights if none")
    parser.add_argument("--histories", type=Path, help="RecBole's .inter file; synthetic if none")
    parser.add_argument("--items", type=int, default=12_101, help="of synthetic histories")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="targets of a step")
    parser.add_argument("--eval-users", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10, help="batches of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.prefix = options.prefix or ("none" if options.task == "every" else "graph")
    options.batch = options.batch or BATCHES[options.task]
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    if options.histories:
        histories, n_items = read_histories(options.histories)
    else:
        histories, n_items = synthetic_histories(22_363, options.items, options.seed)
    every, count = options.task == "every", options.repeats + 2
    print(
        f"torch {torch.__version__}, {options.threads} threads, "
        f"{options.histories or 'synthetic histories'}; task {options.task}, prefix "
        f"{options.prefix}, {options.layers} layers, {options.batch} targets a step"
    )
    if every:
        epoch = sequences(histories, options.batch, options.seed)[:count]
        samples = sum(int((batch[0] > 0).sum()) - len(batch[0]) for batch in epoch)
    else:
        epoch = training(histories, options.batch, count * options.batch, 0, True).batches
        samples = count * options.batch
    users = evaluation(histories, options.eval_users, count * options.eval_users, options.seed)
    for types in options.types:
        former, package = types.split(":")
        networks = [build(options, former, n_items, True), build(options, package, n_items, False)]
        print(f"\nformer {former}, package {package}: ", end="")
        bound = EXACT if "bfloat16" not in types else ROUNDED
        if differences(networks, every, epoch[0], users.batches[0]) > bound:
            raise SystemExit("the two paths disagree")
        print(f"{'samples/s':<26} {'former':>9} {'package':>9} {'wall':>8} {'processor':>10}")
        steps = [training_step(network.train(), every) for network in networks]
        compare("training", steps, epoch, samples)
        scoring = [scoring_step(network.eval()) for network in networks]
        compare("evaluation", scoring, users.batches, users.samples)


if __name__ == "__main__":
    main()
