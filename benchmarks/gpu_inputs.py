"""Make the folder that ``gpu_report.sh`` reads: histories, item tables, a backbone's first layers.

    python benchmarks/gpu_inputs.py --dataset=Beauty --graph=runs/Beauty/HeLLMPre \\
        --sequence=runs/Beauty/SASRec gpu-inputs

A table comes from a run (its folder, or a model's folder of runs for the newest), from a file as
``--graph_embeddings`` takes it, or from the dataset's item features by name. The report needs no
RecBole; this script does, and the package gguf.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
from gpu_training import BACKBONE, DATA, Inputs
from packed_backbone import facts, outline, pack, smollm2
from torch import Tensor

from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.features.embedding_files import ItemTableFile
from recbole_hellm.data.features.store import load_features
from recbole_hellm.errors import DataError, HellmError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.runs.opening import open_dataset
from recbole_hellm.runs.results import load_run

ROLES = ("graph", "sequence", "language")
LIMIT = 50_000_000  # bytes


def read_table(role: str, source: str, config: HellmConfig, dataset: object) -> Tensor:
    """The table of a role, [N, d], in the order of the dataset's items.

    Parameters
    ----------
    role : str
    source : str
        A run, a file, or the name of item features such as ``text-minilm``.
    config : HellmConfig
    dataset : Dataset

    Raises
    ------
    HellmError
        If it cannot be read, or belongs to another dataset or split.
    """
    tokens = dataset.item_tokens  # type: ignore[attr-defined]
    if Path(source).is_dir():
        run = RunDirectory(load_run(source).path)
        return run.read_embeddings("item", tokens, dataset.fingerprint)  # type: ignore[attr-defined]
    if Path(source).is_file():
        return ItemTableFile.find(role, source).read(tokens)
    (features,) = load_features(config.dataset_directory, list(tokens), [source]).values()
    return torch.from_numpy(features.matrix)


def make(options: argparse.Namespace) -> None:
    """Write the folder.

    Raises
    ------
    HellmError
        If something cannot be read, or the folder becomes larger than it may.
    """
    given = {"data_path": str(options.data_path), "use_gpu": False, "show_progress": False}
    config = HellmConfig("HeLLM", options.dataset, given)
    dataset = open_dataset(config, features=False, prepare=False)
    sources = {role: getattr(options, role) for role in ROLES if getattr(options, role)}
    tables = {role: read_table(role, source, config, dataset) for role, source in sources.items()}
    if "language" in tables:  # the widest of them
        tables["language"] = tables["language"].half()
    options.folder.mkdir(parents=True, exist_ok=True)
    backbone = options.folder / BACKBONE
    pack(options.backbone or smollm2(), backbone, options.layers, options.words)
    described = {
        "dataset": options.dataset,
        "split": dataset.fingerprint,
        "tables": {role: Path(source).name for role, source in sources.items()},
        "backbone": facts(backbone)["source"],
        "layers": outline(backbone).num_hidden_layers,
    }
    Inputs(dataset.histories, tables, backbone, described).save()
    sizes = {name: (options.folder / name).stat().st_size for name in (DATA, BACKBONE)}
    listed = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
    if sum(sizes.values()) > LIMIT:
        raise DataError(
            f"{options.folder} takes more than {LIMIT / 1e6:.0f} MB ({listed}); lower --layers, "
            "or leave out --words or --language."
        )
    print(f"{options.folder}: {listed}")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", default="Beauty")
    parser.add_argument("--data_path", type=Path, default=Path("dataset"))
    parser.add_argument("--graph", help="run or file of the graph stage's item embeddings")
    parser.add_argument("--sequence", help="run or file of the sequence stage's")
    parser.add_argument("--language", help="file or name of item features, kept as float16")
    parser.add_argument("--backbone", type=Path, help="GGUF file; SmolLM2 by default")
    parser.add_argument("--layers", type=int, default=14, help="first layers to take along")
    parser.add_argument("--words", action="store_true", help="take the word embeddings along")
    options = parser.parse_args()
    if not (options.graph or options.sequence):
        parser.error("name a run or a file with --graph or --sequence, of which items are made")
    return options


def main() -> None:
    """Make the inputs."""
    logging.basicConfig(level=logging.WARNING)
    try:
        make(parse())
    except HellmError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
