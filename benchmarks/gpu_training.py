"""Train HeLLM's second stage on histories and item tables that come as files, without RecBole.

Batches, loss, schedule and ranking are the package's own; docs/protocol.md says how they rank. The
files are made by ``gpu_inputs.py``; ``gpu_report.py`` trains several configurations, one by one.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import packed_backbone
import torch
from llm_work import LIMIT, padded
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaModel

from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.data.interactions.batches import BucketedBatches, sequence_rows
from recbole_hellm.data.interactions.held_out import leave_one_out
from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.data.interactions.target_rows import TargetRows
from recbole_hellm.errors import DataError, DivergenceError, reason
from recbole_hellm.evaluation.outcomes import Outcomes
from recbole_hellm.evaluation.rank_metrics import NDCG, Recall
from recbole_hellm.evaluation.ranking import count_above
from recbole_hellm.models.llm import HeLLMNetwork, LLMSettings, build_backbone, wrap_backbone
from recbole_hellm.models.llm.settings import TINY
from recbole_hellm.storage.files import atomic_path

DATA, BACKBONE = "data.safetensors", "backbone.safetensors"
EVALUATED = 512  # users scored at a time


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a training reads.

    Attributes
    ----------
    histories : Histories
    tables : dict of str to Tensor
        [N, d] by name: ``graph``, ``sequence``, ``language``.
    backbone : Path
        A packed decoder, see :mod:`packed_backbone`.
    facts : dict
        Where all this comes from, as JSON.
    """

    histories: Histories
    tables: dict[str, Tensor]
    backbone: Path
    facts: dict[str, Any]

    def save(self) -> None:
        """Write histories and tables beside the backbone."""
        tensors = {f"table.{name}": table.contiguous() for name, table in self.tables.items()}
        for name in ("offsets", "items"):
            values = getattr(self.histories, name).astype(np.int32)
            tensors[name] = torch.from_numpy(values)
        with atomic_path(self.backbone.parent / DATA) as temporary:
            save_file(tensors, temporary, {"facts": json.dumps(self.facts)})

    @classmethod
    def read(cls, folder: Path) -> Inputs:
        """The content of a folder.

        Raises
        ------
        DataError
            If the file is missing, damaged or another one.
        """
        file = folder / DATA
        try:
            with safe_open(file, "pt") as content:
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                facts = json.loads((content.metadata() or {})["facts"])
            offsets, items = (
                tensors.pop(name).numpy().astype(np.int64) for name in ("offsets", "items")
            )
            histories = Histories(offsets, items, leave_one_out(np.diff(offsets)))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(
                f"{file} cannot be read ({reason(error)}); make it by gpu_inputs.py."
            ) from error
        tables = {name.removeprefix("table."): table.float() for name, table in tensors.items()}
        return cls(histories, tables, folder / BACKBONE, facts)


@dataclasses.dataclass(frozen=True)
class Job:
    """One configuration.

    Attributes
    ----------
    weights : {"pretrained", "random", "whole", "tiny"}
        The decoder: as it was read, with random weights of its shape, with random weights that are
        all trained, or the package's small one. The first two are frozen and have LoRA.
    layers : int
        Of the decoder; ``tiny`` has its own.
    prefix : {"graph", "static", "none"}
    items : tuple of str
        Tables that an item token is made of.
    """

    weights: str
    layers: int
    prefix: str
    items: tuple[str, ...]

    @property
    def name(self) -> str:
        """What tables call it."""
        depth = "" if self.weights == TINY else f", {self.layers} layers"
        return f"{self.weights}{depth}, prefix {self.prefix}, items {'+'.join(self.items)}"

    def settings(self, device: torch.device) -> LLMSettings:
        """Settings of the network: no prompt, every position a target, the tied head."""
        chosen: dict[str, Any] = {"prefix": self.prefix, "item_inputs": self.items}
        if self.weights == TINY:
            return LLMSettings(**chosen).resolved()
        whole = self.weights == "whole"
        return LLMSettings(
            **chosen,
            backbone=self.weights,
            train_backbone=whole,
            # Frozen weights are stored in half precision, trained ones are not.
            autocast="bfloat16" if whole and device.type == "cuda" else "auto",
            prompt="none",
            targets="every",
            head="tied",
            item_vectors=True,
            train_item_tables=True,
            normalise_tables=True,
            pooling_dropout=0.5,
        ).resolved()

    def training(self, epochs: int) -> tuple[TrainingSettings, int]:
        """The schedule, and the targets of a step."""
        tiny = self.weights == TINY
        schedule = TrainingSettings(
            epochs=2 * epochs if tiny else epochs,
            learning_rate=1e-3,
            learning_rate_min=1e-5,
            weight_decay=0.01,
            betas=(0.9, 0.98),
            scheduler="cosine",
            warmup_epochs=1.0 if tiny else 0.5,
        )
        return schedule, 768 if tiny else 512


def build(job: Job, inputs: Inputs, device: torch.device, seed: int) -> HeLLMNetwork:
    """The network of a configuration."""
    settings = job.settings(device)
    torch.manual_seed(seed)
    if job.weights == TINY:
        backbone = build_backbone(settings)
    else:
        if job.weights == "pretrained":
            model = packed_backbone.unpack(inputs.backbone, job.layers)
        else:
            model = LlamaModel(packed_backbone.outline(inputs.backbone, job.layers))
        if device.type == "cuda" and not settings.train_backbone:
            for weight in model.parameters():  # and not the rotation's frequencies
                weight.data = weight.data.bfloat16()
        backbone = wrap_backbone(model, settings)
    missing = {*settings.item_tables} - inputs.tables.keys()
    if missing:
        raise DataError(f"The inputs hold no {min(missing)} table; make them with it.")
    tables = {
        name: torch.nn.functional.pad(inputs.tables[name], (0, 0, 1, 0))
        for name in settings.item_tables
    }
    return HeLLMNetwork(settings, tables, backbone=backbone).to(device)


@torch.no_grad()
def metrics(
    network: HeLLMNetwork, histories: Histories, phase: str, size: int = EVALUATED
) -> dict[str, float]:
    """NDCG@10 and Recall@20 over all items, histories masked.

    Parameters
    ----------
    network : HeLLMNetwork
    histories : Histories
    phase : {"valid", "test"}
    size : int
        Users scored at a time.
    """
    network.eval()
    device = network.item_weights().device
    targets = TargetRows.of(histories, phase, "user")
    lengths = np.minimum(targets.places, LIMIT)
    starts = histories.offsets[targets.users] + targets.places - lengths
    order = np.argsort(lengths, kind="stable")
    outcomes = Outcomes.empty(targets, 1, 0)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        items = padded(histories, starts[rows], lengths[rows]).to(device)
        read = torch.from_numpy(lengths[rows]).to(device)
        scores = network.logits(network.hidden_states(items, read))
        known, masked = map(torch.from_numpy, targets.known(histories, rows, "seen"))
        wanted = torch.from_numpy(targets.items[rows]).to(device)
        counted = count_above(scores, wanted, [(known.to(device), masked.to(device))])
        found = np.stack([torch.stack(counts).cpu().numpy() for counts in counted])
        outcomes.put(rows, found, outcomes.lists[rows])
    ranks = outcomes.ranks(0)
    return {
        "ndcg@10": float(NDCG().per_user(ranks, 10).mean()),
        "recall@20": float(Recall().per_user(ranks, 20).mean()),
    }


def train(
    job: Job, inputs: Inputs, device: torch.device, epochs: int, seconds: float, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Train a configuration, and score the test items once, at the epoch best in validation.

    Parameters
    ----------
    job : Job
    inputs : Inputs
    device : torch.device
    epochs : int
    seconds : float
        Time for all of it. No epoch but the first begins that would not end in it.
    seed : int

    Yields
    ------
    dict
        Of each epoch, loss, seconds and validation metrics; at last, the epoch and test metrics.

    Raises
    ------
    DivergenceError
        If the loss is not finite.
    """
    begun = time.monotonic()
    network, histories = build(job, inputs, device, seed), inputs.histories
    schedule, size = job.training(epochs)
    _, starts, lengths, targets = sequence_rows(histories, LIMIT)
    batches = BucketedBatches(lengths, size, seed, targets)
    optimizer = torch.optim.AdamW(
        network.trainable_parameter_groups(schedule.weight_decay),
        lr=schedule.learning_rate,
        betas=schedule.betas,  # type: ignore[arg-type]
        fused=True,
    )
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    best: dict[str, Tensor] = {}
    chosen, best_score, step, needed = 0, -1.0, 0, 0.0
    for epoch in range(1, schedule.epochs + 1):
        started = time.monotonic()
        if epoch > 1 and started - begun + needed > seconds:
            break
        network.train()
        total = torch.zeros((), device=device)
        for rows in batches:
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * schedule.factor(step, len(batches))
            optimizer.zero_grad()
            loss = network.sequence_loss(padded(histories, starts[rows], lengths[rows]).to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
            step += 1
        mean = float(total) / len(batches)
        if not np.isfinite(mean):
            raise DivergenceError(f"The loss is {mean} in epoch {epoch}", "lower learning_rate")
        middle = time.monotonic()
        valid = metrics(network, histories, "valid")
        ended = time.monotonic()
        # An epoch with its validation, and the test after it.
        needed = max(needed, ended - started + ended - middle)
        if valid["ndcg@10"] > best_score:
            chosen, best_score = epoch, valid["ndcg@10"]
            best = {name: value.detach().clone() for name, value in trained.items()}
        costs = {"train_s": middle - started, "valid_s": ended - middle}
        yield {"epoch": epoch, "loss": mean, **costs, "valid": valid}
    with torch.no_grad():
        for name, value in best.items():
            trained[name].copy_(value)
    yield {
        "best_epoch": chosen,
        "test": metrics(network, histories, "test"),
        "trainable_parameters": sum(value.numel() for value in trained.values()),
        "peak_gib": torch.cuda.max_memory_reserved() / 2**30 if device.type == "cuda" else None,
    }
