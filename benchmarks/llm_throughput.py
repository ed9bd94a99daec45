"""Measure the second stage: training and evaluation, beside a straightforward reference path.

    python benchmarks/llm_throughput.py --threads=2                                # a minute
    python benchmarks/llm_throughput.py --threads=2 --histories=dataset/Beauty/Beauty.inter
    python benchmarks/llm_throughput.py --shape=7b --device=cuda --batch=32 --memory=24

A backbone of any shape is made with random weights, frozen and given LoRA; nothing is downloaded.
Histories are synthetic, as long as Amazon Beauty's, or come from RecBole's atomic file. The
reference (``llm_reference.py``) scores one user at a time, trains on seven padded samples, forms
the prefix of each slot and all attention weights; both sides have the same weights, types, dropout
and threads, and their scores, gradients and losses are compared. Compilation (unless
``--no-compile``) and the fused optimiser are the package's alone.

Samples are users in evaluation and (history, next item) pairs in training; tokens are those that go
through the decoder, padding not counted; utilisation is that of a plain decoder's operations on
them (twice forward in training, since frozen weights need no gradients) against the rate of a large
matrix product measured on the spot. Memory is a GPU's, reserved by PyTorch.

Needs torch, transformers, peft and pandas, but not RecBole.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from llm_reference import Reference
from llm_work import (
    INSTRUCTION,
    RESPONSE,
    Batch,
    Work,
    apart,
    evaluation,
    moved,
    multi_target,
    read_histories,
    synthetic_histories,
    training,
)
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.models.llm import HeLLMNetwork, LLMSettings, wrap_backbone
from recbole_hellm.models.llm.prompt import PromptTokens

SHAPES = {  # layers, width, feed-forward width, heads, key heads
    "small": (4, 256, 688, 4, 4),
    "0.5b": (24, 896, 4864, 14, 2),
    "1b": (16, 2048, 8192, 32, 8),
    "7b": (32, 4096, 11008, 32, 32),
}
REFERENCE_BATCH, TOP = 7, 20
BOUNDS = {  # of the relative differences of scores, gradients and losses
    "float32": (1e-4, 1e-4, 1e-5),
    "bfloat16": (0.03, 0.1, 0.01),
    "float16": (0.01, 0.03, 0.003),
}


# Networks -----------------------------------------------------------------------------------------


def build(options: argparse.Namespace, n_items: int, fast: bool) -> HeLLMNetwork:
    """The second stage on a random, frozen backbone; the same weights for the same options."""
    layers, width, inner, heads, key_heads = options.sizes
    settings = LLMSettings(
        backbone="random",
        prompt="none",
        prefix=options.prefix,
        prefix_projection=options.projection,
        prefix_norm="after" if options.projection == "frozen" else "before",
        lora_dropout=options.lora_dropout,
        compile=options.compile and fast,
        gradient_checkpointing=options.checkpointing and fast,
    )
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
    )
    torch.manual_seed(options.seed)
    torch.set_default_dtype(getattr(torch, options.dtype))
    with torch.device(options.device):
        model = LlamaModel(config)
    torch.set_default_dtype(torch.float32)
    backbone = wrap_backbone(model, settings)
    tables = {name: torch.randn(n_items + 1, 64) for name in ("graph", "sequence")}
    network = HeLLMNetwork(settings, tables, backbone=backbone)
    words = torch.randint(0, config.vocab_size, (INSTRUCTION + RESPONSE,)).tolist()
    network.prompt = PromptTokens(words[:INSTRUCTION], words[INSTRUCTION:])
    return network.to(options.device)


def plain_operations(sizes: tuple[int, ...]) -> int:
    """Operations of a plain decoder's products for one token forward, attention scores aside."""
    layers, width, inner, heads, key_heads = sizes
    attention = 2 * width * width + 2 * width * width * key_heads // heads
    return 2 * layers * (attention + 3 * width * inner)


# Timing -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Figure:
    """What one path does in a second."""

    samples: float
    tokens: float
    memory: float


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB that PyTorch took from the GPU; not a number on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    return float("nan")


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product(_: int) -> None:
        left @ right

    return 2.0 * size**3 / timed(product, range(3), range(20), device)[0]


def timed(
    step: Callable[[int], None], warm: range, steps: range, device: torch.device
) -> tuple[float, float]:
    """Mean seconds of a step after a warm-up, and the peak memory in GiB."""
    gc.collect()
    for number in warm:
        step(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    for number in steps:
        step(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / len(steps), peak_memory(device)


def measure(step: Callable[[Batch], None], work: Work, device: torch.device) -> Figure:
    """Rates of a step over all batches, after some of them as a warm-up."""
    batches = [moved(batch, device) for batch in work.batches]
    # Compiled code meets its shapes in the warm-up.
    warm = range(min(len(batches), 8))
    seconds, memory = timed(lambda i: step(batches[i]), warm, range(len(batches)), device)
    seconds *= len(batches)
    return Figure(work.samples / seconds, work.tokens / seconds, memory)


def trainer(
    network: torch.nn.Module, loss: Callable[..., Tensor], fused: bool
) -> Callable[[Batch], None]:
    """A training step: forward, backward, AdamW."""
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=fused)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        loss(*batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def scored(network: HeLLMNetwork, histories: Tensor, lengths: Tensor) -> Tensor:
    """The package's scores of all items."""
    return network.logits(network.hidden_states(histories, lengths))[:, 1:]


def evaluator(network: torch.nn.Module, scores: Callable[..., Tensor]) -> Callable[[Batch], None]:
    """An evaluation step: scores of all items, the best of them."""
    network.eval()

    @torch.no_grad()
    def step(batch: Batch) -> None:
        scores(batch[0], batch[1]).topk(TOP)

    return step


@dataclasses.dataclass
class Outcome:
    """What a path computes for one batch, on the CPU: to be compared with another path's."""

    scores: Tensor
    gradients: dict[str, Tensor]
    several: Tensor

    @classmethod
    def of(
        cls,
        network: HeLLMNetwork,
        scores: Callable[..., Tensor],
        loss: Callable[..., Tensor],
        several: Callable[..., Tensor],
        batch: Batch,
        rows: Batch,
    ) -> Outcome:
        """Scores and gradients of a batch, and the loss of rows of several targets."""
        network.eval()
        with torch.no_grad():
            found, mean = scores(*batch[:2]).cpu(), several(*rows).cpu()
        loss(*batch).backward()  # type: ignore[no-untyped-call]
        held = ((name, p.grad) for name, p in network.named_parameters() if p.grad is not None)
        gradients = {name: gradient.float().cpu() for name, gradient in held}
        network.zero_grad()
        return cls(found, gradients, mean)

    def differences(self, other: Outcome) -> tuple[float, float, float]:
        """Largest differences of scores, gradients and losses, as shares of the largest value."""

        def share(one: Tensor, another: Tensor) -> float:
            return float((one - another).abs().max() / another.abs().max())

        telling = [name for name, value in other.gradients.items() if value.abs().max() > 1e-7]
        return (
            share(self.scores, other.scores),
            max(share(self.gradients[name], other.gradients[name]) for name in telling),
            share(self.several, other.several),
        )


def largest_batch(network: HeLLMNetwork, histories: Histories, limit: float, seed: int) -> int:
    """Largest training batch whose peak stays under `limit` GiB of a GPU."""
    device, size, best = next(network.parameters()).device, 8, 0
    step = trainer(network, network.loss, True)

    def peak(size: int) -> float:
        batch = moved(training(histories, size, size, seed, False).batches[0], device)
        try:
            return timed(lambda _: step(batch), range(1), range(1), device)[1]
        except torch.OutOfMemoryError:
            return float("inf")

    while size <= 4096 and peak(size) <= limit:
        size, best = size * 5 // 4, size
    return best


def paths(
    options: argparse.Namespace, histories: Histories, n_items: int
) -> Iterator[tuple[str, str, Figure]]:
    """Measure what the options ask for: task, path and figure."""
    device, seed, several = torch.device(options.device), options.seed, options.prefix != "graph"
    probe = training(histories, REFERENCE_BATCH, REFERENCE_BATCH, seed, False).batches[0]
    probe, rows = moved(probe, device), multi_target(histories, 8, 8, seed).batches[0]
    expected = None
    if not options.skip_reference:
        # It is gone before the package's network is made, so that memory is each one's own.
        reference = Reference(build(options, n_items, fast=False))
        path = reference.scores, reference.loss, reference.loss
        expected = Outcome.of(reference.network, *path, probe, moved(apart(rows), device))
        one = evaluator(reference.network, reference.scores)
        work = evaluation(histories, 1, options.reference_users, seed)
        yield "evaluation", "reference", measure(one, work, device)
        seven = trainer(reference.network, reference.loss, False)
        work = training(histories, REFERENCE_BATCH, options.reference_samples, seed, False)
        yield "training", "reference", measure(seven, work, device)
        del reference, one, seven, path
    fast = build(options, n_items, fast=True)
    if expected is not None:
        losses = (fast.loss, fast.targets_loss) if several else (fast.loss, fast.loss)
        rows = rows if several else apart(rows)
        path = functools.partial(scored, fast), *losses
        found = Outcome.of(fast, *path, probe, moved(rows, device))
        differences = found.differences(expected)
        print("relative differences of scores, gradients, losses: {:.1e}, {:.1e}, {:.1e}".format(
            *differences))  # fmt: skip
        if any(d > bound for d, bound in zip(differences, BOUNDS[options.dtype], strict=True)):
            raise SystemExit("the two paths disagree")
    many = evaluator(fast, functools.partial(scored, fast))
    work = evaluation(histories, options.eval_users, options.users, seed, shared=several)
    yield "evaluation", "package", measure(many, work, device)
    step = trainer(fast, fast.loss, True)
    work = training(histories, options.batch, options.samples, seed, True)
    yield "training", "package", measure(step, work, device)
    if several:
        step = trainer(fast, fast.targets_loss, True)
        work = multi_target(histories, options.batch, options.samples, seed)
        yield "training", "package, a user's targets at once", measure(step, work, device)
    if options.memory:
        size = largest_batch(fast, histories, options.memory, seed)
        print(f"largest training batch under {options.memory:g} GiB: {size}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line, or the same options from elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--sizes", type=int, nargs=5, metavar="N", help="layers, width, inner "
                        "width, heads, key heads; instead of --shape")  # fmt: skip
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--histories", type=Path, help="RecBole's .inter file; synthetic if none")
    parser.add_argument("--prefix", choices=["graph", "static", "none"], default="graph")
    parser.add_argument("--projection", choices=["frozen", "direct"], default="frozen")
    parser.add_argument("--lora-dropout", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=128, help="training samples in a step")
    parser.add_argument("--eval-users", type=int, default=64, help="users scored at a time")
    parser.add_argument("--users", type=int, default=4096, help="users to evaluate")
    parser.add_argument("--samples", type=int, default=4096, help="samples to train on")
    parser.add_argument("--reference-users", type=int, default=256)
    parser.add_argument("--reference-samples", type=int, default=280)
    parser.add_argument("--memory", type=float, help="find the largest batch under so many GiB")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--skip-reference", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.sizes = options.sizes or SHAPES[options.shape]
    if options.memory and torch.device(options.device).type != "cuda":
        parser.error("--memory needs --device=cuda, whose memory can be read")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.histories:
        histories, n_items = read_histories(options.histories)
    else:
        histories, n_items = synthetic_histories(22_363, 12_101, options.seed)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rate = matrix_rate(getattr(torch, options.dtype), device)
    source = options.histories or "synthetic histories"
    print(f"torch {torch.__version__}, {where}, {options.threads} threads, {source}")
    print(
        f"{len(histories.evaluated('test')):,} users, {n_items:,} items; {options.dtype}, shape "
        f"{tuple(options.sizes)}, prefix {options.prefix} ({options.projection}), compiled: "
        f"{options.compile}; matrix products: {rate / 1e12:.2f} T/s"
    )
    operations = plain_operations(options.sizes)
    first: dict[str, Figure] = {}
    header = ("task", "path", "samples/s", "tokens/s", "utilisation", "peak GiB", "ratio")
    print("{:<11} {:<35} {:>10} {:>10} {:>12} {:>9} {:>7}".format(*header))
    for task, path, figure in paths(options, histories, n_items):
        passes = 1 if task == "evaluation" else 2  # frozen weights need no gradients of their own
        share = passes * operations * figure.tokens / rate
        first.setdefault(task, figure)
        ratio = figure.samples / first[task].samples
        memory = f"{figure.memory:.2f}" if device.type == "cuda" else "-"
        shown = "" if options.skip_reference else f"{ratio:6.2f}x"
        print(
            f"{task:<11} {path:<35} {figure.samples:>10.1f} {figure.tokens:>10.0f} {share:>11.1%} "
            f"{memory:>9} {shown:>7}",
            flush=True,
        )


if __name__ == "__main__":
    main()
