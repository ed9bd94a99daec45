"""``run --dry_run``: what a run needs, before it starts."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.config.training_settings import TrainingSettings
from recbole_hellm.data.features.encoding import ensure_features
from recbole_hellm.data.features.store import list_features
from recbole_hellm.data.interactions.batches import (
    BucketedBatches,
    mixed_lengths,
    sequence_rows,
    target_rows,
)
from recbole_hellm.data.preparation.datasets.families import family_of
from recbole_hellm.data.preparation.prepare import SAMPLE, prepare_dataset
from recbole_hellm.models.averaging import kept_copies
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.requirements import outline, requirements
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.models.sequential.hellm import (
    HeLLM,
    longest_history,
    read_texts,
    running_tokens,
    table_widths,
)
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.identity import run_path
from recbole_hellm.runs.opening import build_model, open_dataset

UNKNOWN = "known when the features are there"


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The rows of one epoch: lengths to sort by, tokens and targets of each, shape [R].

    Tokens leave out an instruction that is read once for all rows of a micro-batch.
    """

    lengths: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray


def describe_needs(config: HellmConfig) -> str:
    """Parameters, memory, operations and time of a run and of the stages it stands on.

    Nothing is trained, prepared, encoded or written, and weights of a pre-trained backbone are not
    loaded. What the run would do first is told instead.

    Raises
    ------
    HellmError
        If the data or a backbone's configuration cannot be had.
    """
    title = f"{config['model']} on {config['dataset']} would need (nothing was trained):"
    rows = _not_prepared(config) or _needs(config)
    return f"{title}\n{tabulate(rows, tablefmt='plain')}"


def _not_prepared(config: HellmConfig) -> list[tuple[str, str]]:
    """The rows for a dataset whose files are not there."""
    name, directory = config["dataset"], config.dataset_directory
    if (directory / f"{name}.inter").is_file():
        return []
    if name != SAMPLE and family_of(name) is None:
        prepare_dataset(name, directory)  # raises with the names that there are
    command = f"recbole-hellm prepare --dataset={name} --data_path={config['data_path']}"
    return [
        ("dataset", f"to be prepared in {directory} (`{command}` does it now)"),
        ("all else", "known when the dataset is there"),
    ]


def _needs(config: HellmConfig) -> list[tuple[str, str]]:
    to_encode = config.needs_features() and _lacks_text_features(config)
    dataset = open_dataset(config, features=False)
    rows: list[tuple[str, str]] = []
    if to_encode:
        encoder = config["text_encoder"]
        rows.append(("features", f"item texts are to be encoded (text_encoder={encoder})"))
    for role, stage in config.stages().items():
        unknown = to_encode and stage.needs_features()
        state = UNKNOWN if unknown else _state(stage, dataset)
        rows.append((f"{role} stage", f"{stage['model']}: {state}"))
    for name, source in config.item_inputs.items():
        if (to_do := source.pending(dataset)) is not None:
            rows.append((name, to_do))
    known = UNKNOWN if to_encode else f"{run_path(config, dataset)}: {_state(config, dataset)}"
    rows.append(("run directory", known))
    if to_encode and _reads_features(config):
        return [*rows, ("parameters, memory, time", UNKNOWN)]
    return rows + (_llm(config, dataset) if _is_llm(config) else _other(config, dataset))


def _lacks_text_features(config: HellmConfig) -> bool:
    """Whether the run would encode item texts before it begins."""
    if config["features"] is not None:
        return False
    if not (config.dataset_directory / f"{config['dataset']}.item").is_file():
        ensure_features(config)  # encodes nothing, and raises if the features cannot be had
        return False
    present = list_features(config.dataset_directory)
    encoder = config["text_encoder"]
    return not any(
        info.modality == "text" and encoder in ("auto", info.encoder) for info in present
    )


def _reads_features(config: HellmConfig) -> bool:
    """Whether the model itself, and not only a stage of it, is built on item features."""
    if config.item_inputs:
        return any(source.needs_features for source in config.item_inputs.values())
    return config.needs_features()


def _is_llm(config: Any) -> bool:
    return isinstance(config.model_class, type) and issubclass(config.model_class, HeLLM)


def _state(config: Any, dataset: Any) -> str:
    directory = RunDirectory(run_path(config, dataset))
    if directory.finished and not config["force"]:
        return "finished, will be used as it is"
    if directory.last_checkpoint.is_file():
        return "begun; --resume goes on" if not config["resume"] else "begun, will go on"
    return "to be trained"


def _other(config: Any, dataset: Any) -> list[tuple[str, str]]:
    split = dataset.build()[0]
    model = build_model(config, split)
    settings = TrainingSettings.from_config(config)
    rows = split.with_first_items() if config["first_item_target"] else split
    return [
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("training rows", f"{len(rows.inter_feat):,}"),
        ("epochs", f"{settings.epochs} at most"),
        ("memory, time", "not estimated for models without a language model"),
    ]


def _llm(config: Any, dataset: Any) -> list[tuple[str, str]]:
    settings = LLMSettings.from_config(config).resolved()
    training, device = TrainingSettings.from_config(config), config["device"]
    widths = table_widths(settings, config.item_inputs, dataset)
    read = functools.partial(read_texts, settings, dataset)
    items, users = dataset.item_num - 1, dataset.user_num - 1
    network = outline(settings, items, widths, device, read, users)
    network.check_training(longest_history(config, dataset, network))
    instruction = len(network.prompt.instruction)
    epoch = _epoch(config, dataset, network)
    size = int(config["train_batch_size"])
    similar = config["bucket_by_length"]
    batches = BucketedBatches(epoch.lengths, size, config["seed"], epoch.targets, similar)
    # Sequences and rows of several targets are packed; single histories are padded.
    packed = settings.targets == "every" or settings.multi_target
    heaviest = max(batches, key=lambda batch: _rows(epoch.tokens[batch], packed)[1])
    rows, _ = _rows(epoch.tokens[heaviest], packed)
    longest, targets = int(epoch.tokens[heaviest].max()), int(epoch.targets[heaviest].sum())
    if training.max_tokens and rows * longest > training.max_tokens:
        fitting = max(1, training.max_tokens // longest)
        rows, targets = fitting, -(-targets * fitting // rows)
    averages = kept_copies(training)
    need = requirements(network, rows, longest, targets, device, averages)
    shared = instruction if packed else 0  # read once for all rows of a batch
    tokens = int(epoch.tokens.sum()) + shared * len(batches)
    operations = need.training / (rows * longest + shared) * tokens
    rate = _matrix_rate(network.products or torch.float32, device)
    samples = int(epoch.targets.sum())
    return [
        ("parameters", f"{need.parameters:,}, of which {need.trained:,} are trained"),
        ("samples", f"{samples:,} an epoch, {training.epochs} epochs at most"),
        ("steps", f"{len(batches):,} an epoch"),
        ("tokens", f"{tokens:,} an epoch, padding not counted"),
        (
            "memory",
            f"{_gib(need.memory)}: weights {_gib(need.weights)}, gradients"
            f"{', averages' if averages else ''} and optimiser {_gib(need.optimiser)}, kept for "
            f"the backward pass {_gib(need.activations)} ({rows} rows of {longest} tokens, the "
            "most at once)",
        ),
        ("operations", f"{operations / 1e12:,.3g} T an epoch"),
        (
            "time",
            f"{_duration(operations / rate)} an epoch at the {rate / 1e12:.3g} T/s of a large "
            "matrix product here just now, of which training reaches a share "
            "(benchmarks/llm_throughput.py measures it)",
        ),
    ]


def _epoch(config: Any, dataset: Any, network: HeLLMNetwork) -> Epoch:
    histories, limit = dataset.histories, int(config["MAX_ITEM_LIST_LENGTH"])
    settings, prompt = network.settings, network.prompt
    instruction, response = len(prompt.instruction), len(prompt.response)
    sums = running_tokens(network, histories)
    first = config["first_item_target"]
    users = histories.learning_users(config["train_users"], config["seed"], first)
    if settings.targets == "every":
        rows = sequence_rows(histories, limit, users, first)
    else:
        size = int(config["train_batch_size"]) if settings.multi_target else 1
        rows = target_rows(histories, limit, size, users, first)
    owners, starts, lengths, targets = rows
    begins = histories.offsets[owners]
    empty = starts < begins  # where one item of padding is read
    tokens = sums[starts + lengths - 1] - sums[np.maximum(starts, begins)] + empty + network.lead
    if settings.targets == "last":
        tokens += response * targets + (0 if settings.multi_target else instruction)
    sorting = mixed_lengths(lengths, empty, config["seed"])
    return Epoch(sorting, tokens, targets)


def _rows(tokens: np.ndarray, packed: bool) -> tuple[int, int]:
    """Rows of a pass over a batch, and tokens in all of them."""
    rows = -(-int(tokens.sum()) // int(tokens.max())) if packed else len(tokens)
    return rows, rows * int(tokens.max())


def _matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        begun = time.perf_counter()
        (one @ other).sum().item()  # waits for a GPU
        seconds.append(time.perf_counter() - begun)
    return 2.0 * size**3 / min(seconds)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
