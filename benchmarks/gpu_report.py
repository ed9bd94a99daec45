"""Measure the second stage on a GPU within a few minutes; ``gpu_report.sh`` calls it.

The shape of a 7B model: training and evaluation beside the reference path, without and with a limit
on memory. Then HeLLM with SmolLM2's first layers on histories and stage embeddings that travel as
files (``gpu_inputs.py``), in several configurations.

Each part is a process of its own with a time of its own. What it has found is written at once, so
that a part that fails or is stopped costs no other part's figures.

Needs torch, transformers, peft, pandas and pydantic, but not RecBole.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import llm_throughput
import numpy as np
import packed_backbone
import peft
import psutil
import torch
import transformers
from gpu_training import BACKBONE, Inputs, Job, train
from llm_work import synthetic_histories, training
from transformers import LlamaConfig, LlamaModel

from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.models.llm.settings import TINY
from recbole_hellm.storage.files import write_text

RESERVE = 15.0  # seconds to end in
DEPTHS = (4, 8)
SEVEN_B = ["--shape=7b", "--dtype=bfloat16", "--no-compile"]
SMALL = ["--sizes", "1", "16", "20", "2", "2", "--dtype=float32", "--no-compile"]

Figures = Iterator[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of the report.

    Attributes
    ----------
    name : str
    seconds : float
        The most it may take.
    work : callable
        Takes the seconds that it has, and yields figures as JSON.
    """

    name: str
    seconds: float
    work: Callable[[float], Figures]


# What the parts do --------------------------------------------------------------------------------


def machine(device: torch.device, _seconds: float) -> Figures:
    """The device, and how fast a GPU multiplies matrices."""
    if device.type != "cuda":
        yield {"device": platform.machine()}
        return
    rate = llm_throughput.matrix_rate(torch.bfloat16, device)
    yield {"device": torch.cuda.get_device_name(device), "matrix_products_tflops": rate / 1e12}


def throughput(arguments: list[str], histories: Histories, _seconds: float) -> Figures:
    """Figures of ``llm_throughput.py`` with these options."""
    options = llm_throughput.parse(arguments)
    n_items = int(histories.items.max())
    for task, path, figure in llm_throughput.paths(options, histories, n_items):
        yield {"task": task, "path": path, **_figure(figure)}


def within(memory: float, arguments: list[str], histories: Histories, _seconds: float) -> Figures:
    """The largest training batch whose peak stays within `memory` GiB, and its speed."""
    options = llm_throughput.parse(arguments)
    network = llm_throughput.build(options, int(histories.items.max()), fast=True)
    size = llm_throughput.largest_batch(network, histories, memory, options.seed)
    yield {"largest_batch": size}
    if size:
        step = llm_throughput.trainer(network, network.loss, True)
        work = training(histories, size, 4 * size, options.seed, True)
        figure = llm_throughput.measure(step, work, torch.device(options.device))
        yield {"task": "training", "path": f"package, {size} samples", **_figure(figure)}


def _figure(figure: llm_throughput.Figure) -> dict[str, float | None]:
    return {
        "samples_per_s": figure.samples,
        "tokens_per_s": figure.tokens,
        "peak_gib": None if math.isnan(figure.memory) else figure.memory,
    }


def seven_b(device: str, threads: int, histories: Histories, smoke: bool) -> list[Part]:
    """Parts that measure the shape of a 7B model."""
    common = [*(SMALL if smoke else SEVEN_B), f"--device={device}", f"--threads={threads}"]
    counts = ["--users=16", "--samples=16", "--batch=8", "--reference-users=2"]
    if not smoke:
        counts = ["--users=512", "--samples=256", "--batch=32", "--reference-users=24"]
    beside = [*common, *counts, f"--reference-samples={7 if smoke else 28}"]
    alone = [*common, *counts, "--skip-reference"]
    parts = [
        Part("7B: beside the reference", 100, functools.partial(throughput, beside, histories)),
        Part("7B: memory free", 60, functools.partial(throughput, alone, histories)),
    ]
    saving = [*alone, "--checkpointing"]
    parts += [
        Part("7B: gradient checkpointing", 60, functools.partial(throughput, saving, histories))
    ]
    if torch.device(device).type == "cuda":  # whose memory can be read
        work = functools.partial(within, 24.0, saving, histories)
        parts += [Part("7B: within 24 GiB", 60, work)]
    return parts


def jobs(tables: set[str], layers: int) -> list[Job]:
    """The configurations to train, the most telling first.

    Parameters
    ----------
    tables : set of str
        Names of the tables there are.
    layers : int
        Layers of the decoder that travels.
    """
    depths = [depth for depth in DEPTHS if depth < layers] + [layers]
    base = depths[min(1, len(depths) - 1)]
    stages = tuple(name for name in ("graph", "sequence") if name in tables)
    prefixes = ("graph", "static", "none") if "graph" in tables else ("static", "none")
    first = prefixes[0]
    chosen = [Job("pretrained", base, prefix, stages) for prefix in prefixes]
    chosen += [Job(weights, base, first, stages) for weights in ("random", "whole")]
    if "language" in tables:
        chosen += [Job("pretrained", base, first, (*stages, "language"))]
    chosen += [Job("pretrained", depth, first, stages) for depth in depths if depth != base]
    return [*chosen, Job(TINY, 2, first, stages)]


# Running them -------------------------------------------------------------------------------------


def _child(sender: Connection, part: Part, seconds: float, log: Path, threads: int) -> None:
    # It stays open for the traceback of an error, which is printed at the very end.
    sys.stdout = sys.stderr = file = log.open("w", buffering=1)
    for descriptor in (1, 2):  # those of libraries that are not Python
        os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(threads)
    for figure in part.work(seconds):
        sender.send(figure)
    sender.close()


def finish(
    part: Part, seconds: float, log: Path, threads: int, found: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run a part in a process of its own.

    Parameters
    ----------
    part : Part
    seconds : float
        It is stopped after that time.
    log : Path
        What it prints, errors included.
    threads : int
    found : callable
        Gets the part's entry in the report each time that it has grown.

    Returns
    -------
    dict
        The entry: ``name``, ``status`` (done, failed or stopped), ``seconds``, ``figures`` and
        ``error``.
    """
    entry: dict[str, Any] = {"name": part.name, "status": "running", "figures": [], "error": None}
    begun = time.monotonic()
    # A fork has the libraries loaded. No GPU has been touched here, which a fork would not survive.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, part, seconds - 2, log, threads)
    process = context.Process(target=_child, args=arguments)
    process.start()
    sender.close()
    while entry["status"] == "running":
        left = begun + seconds - time.monotonic()
        if left <= 0 or not receiver.poll(left):
            process.kill()
            entry |= {"status": "stopped", "error": f"its {seconds:.0f} seconds were up"}
            break
        try:
            entry["figures"].append(receiver.recv())
        except EOFError:
            break
        found(entry | {"seconds": time.monotonic() - begun})
    process.join()
    if entry["status"] == "running":
        entry["status"] = "failed" if process.exitcode else "done"
    if entry["status"] == "failed":
        lines = log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        entry["error"] = said[-1] if said else f"it ended with status {process.exitcode}"
    entry["seconds"] = time.monotonic() - begun
    return entry


def run(parts: list[Part], options: argparse.Namespace, facts: dict[str, Any], end: float) -> None:
    """Run all parts until the time `end`, and write the report as it grows."""
    done: list[dict[str, Any]] = []

    def write(entry: dict[str, Any]) -> None:
        report = facts | {"parts": [*done, entry]}
        write_text(options.out / "report.json", json.dumps(report, indent=1) + "\n")
        write_text(options.out / "report.md", markdown(report))

    for number, part in enumerate(parts):
        seconds = min(part.seconds, end - time.monotonic())
        if seconds < 5:
            entry = {"name": part.name, "status": "not begun", "seconds": 0.0, "figures": []}
            entry["error"] = "no time was left"
        else:
            log = options.out / f"part-{number:02d}.log"
            entry = finish(part, seconds, log, options.threads, write)
        write(entry)
        done.append(entry)
        said = f" ({entry['error']})" if entry["error"] else ""
        print(f"{entry['seconds']:6.1f} s  {entry['status']:<9} {part.name}{said}", flush=True)


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    speed = ["| | task | samples/s | tokens/s | peak GiB |", "|---|---|---|---|---|"]
    trained = [
        "| HeLLM | validation N@10 by epoch | test N@10 | test R@20 | s/epoch | s/validation |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for part in report["parts"]:
        epochs = [figure for figure in part["figures"] if "epoch" in figure]
        for figure in part["figures"]:
            if "samples_per_s" in figure:
                peak = "" if figure["peak_gib"] is None else f"{figure['peak_gib']:.1f}"
                speed.append(
                    f"| {part['name']}, {figure['path']} | {figure['task']} | "
                    f"{figure['samples_per_s']:.1f} | {figure['tokens_per_s']:.0f} | {peak} |"
                )
            elif "epoch" not in figure and "test" not in figure:
                notes += [f"{part['name']}: {json.dumps(figure)}"]
        if epochs:
            test = next((figure["test"] for figure in part["figures"] if "test" in figure), None)
            scores = ["", ""] if test is None else [f"{value:.4f}" for value in test.values()]
            valid = " ".join(f"{figure['valid']['ndcg@10']:.4f}" for figure in epochs)
            costs = [np.mean([figure[key] for figure in epochs]) for key in ("train_s", "valid_s")]
            cells = [part["name"], valid, *scores, *(f"{cost:.1f}" for cost in costs)]
            trained.append(f"| {' | '.join(cells)} |")
        if part["error"]:
            notes.append(f"{part['name']}: {part['status']} ({part['error']})")
    blocks = [table for table in (speed, trained) if len(table) > 2]
    blocks += [[f"- {note}" for note in notes]] if notes else []
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def synthetic_inputs(folder: Path) -> Inputs:
    """Inputs like real ones, of a few users, items and layers."""
    torch.manual_seed(1)  # random weights of a part have another seed
    histories, n_items = synthetic_histories(40, 60, 0)
    config = LlamaConfig(
        vocab_size=1,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    weights = {name: ("F32", value.data) for name, value in LlamaModel(config).named_parameters()}
    packed_backbone.write(config, weights, folder / BACKBONE, "random numbers")
    tables = {name: torch.randn(n_items, 8) for name in ("graph", "sequence", "language")}
    inputs = Inputs(histories, tables, folder / BACKBONE, {"dataset": "synthetic"})
    inputs.save()
    return Inputs.read(folder)


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=Path, help="folder made by gpu_inputs.py")
    parser.add_argument("--out", type=Path, default=Path("gpu-report"))
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all of it")
    parser.add_argument("--device", help="cuda by default; cpu under --smoke")
    parser.add_argument("--threads", type=int, help="8 by default; 1 under --smoke")
    parser.add_argument("--epochs", type=int, help="of each training: 4 by default")
    parser.add_argument("--only", default="", help="regular expression of the parts to run")
    parser.add_argument("--smoke", action="store_true", help="all of it in toy size, on synthetic "
                        "data, in seconds")  # fmt: skip
    options = parser.parse_args()
    if not (options.smoke or options.inputs):
        parser.error("name the folder that gpu_inputs.py made with --inputs, or try --smoke")
    options.device = options.device or ("cpu" if options.smoke else "cuda")
    options.threads = options.threads or (1 if options.smoke else 8)
    options.epochs = options.epochs or (2 if options.smoke else 4)
    return options


def main() -> None:
    """Run the report."""
    options = parse()
    # Loading the libraries has taken a part of the time.
    begun = time.monotonic() - (time.time() - psutil.Process().create_time())
    end = begun + options.minutes * 60 - RESERVE
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # threads that exist here would be missing in the parts' processes
    with tempfile.TemporaryDirectory() as folder:
        inputs = synthetic_inputs(Path(folder)) if options.smoke else Inputs.read(options.inputs)
        device = torch.device(options.device)
        parts = [Part("machine", 30, functools.partial(machine, device))]
        parts += seven_b(options.device, options.threads, inputs.histories, options.smoke)
        layers = packed_backbone.outline(inputs.backbone).num_hidden_layers
        for job in jobs({*inputs.tables}, layers):
            work = functools.partial(train, job, inputs, device, options.epochs)
            parts.append(Part(job.name, 90, work))
        parts = [part for part in parts if re.search(options.only, part.name)]
        libraries = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
        facts = {
            "versions": {"python": platform.python_version(), **libraries},
            "options": {key: str(value) for key, value in vars(options).items()},
            "inputs": inputs.facts,
        }
        run(parts, options, facts, end)


if __name__ == "__main__":
    main()
