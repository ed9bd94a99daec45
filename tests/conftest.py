"""Fixtures for all tests: one tiny dataset in every awkward shape, quick settings, and kept records
made by hand, so that every figure in a table is known."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from support.small_model import SMALL_MODEL

from recbole_hellm import compat
from recbole_hellm.benchmark.record_ranks import compress_ranks, in_token_order, write_record_ranks
from recbole_hellm.benchmark.records import SLICED, Record, read_records
from recbole_hellm.data.features.store import save_features
from recbole_hellm.evaluation.ranking import Ranks
from recbole_hellm.evaluation.slices import Grouping, UserSlices, metrics_by_slice
from recbole_hellm.runs.identity import recipe_of
from recbole_hellm.storage.checksums import content_hash

# Here, for tests that import RecBole's models themselves, in any order.
with compat.anomaly_mode_kept():
    import recbole.model.sequential_recommender  # noqa: F401

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes, and their children, share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs and the programs they start ignore interrupts; tests send them.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]
START = 1_390_000_000  # where float32 keeps a time only to 128 s
SPACING = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(os.environ.get("HELLM_RAW_DIR") or REPOSITORY.parent / "shared/data/amazon2014")
    if folder.is_dir():
        return
    skip = pytest.mark.skip(reason=f"no real Amazon files in {folder}; set HELLM_RAW_DIR")
    for item in items:
        if "realdata" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched from anywhere; tests of downloads name a server of their own."""
    monkeypatch.setenv("HELLM_MIRRORS", "none")


@pytest.fixture
def raw_dir() -> Path:
    """The folder of the real Amazon files, for tests marked ``realdata``."""
    return Path(os.environ.get("HELLM_RAW_DIR") or REPOSITORY.parent / "shared/data/amazon2014")


def tiny_interactions() -> pd.DataFrame:
    """40 users and 30 items with short users, ties, repeats and 20 s spacing, rows shuffled.

    Every user walks along a circle of items, so that there is something to learn.
    """
    rng = np.random.default_rng(7)
    lengths = np.r_[1, 1, 2, 2, rng.integers(3, 13, 36)]
    rows = []
    for user, length in enumerate(lengths):
        first, time = int(rng.integers(30)), START + int(rng.integers(10_000)) * SPACING
        for step in range(length):
            item = (first + 3 * step + int(rng.integers(2))) % 30
            rows.append((f"u{(user * 17) % 40:02d}", f"i{item:02d}", time))
            time += int(rng.integers(2)) * SPACING  # every other step ties with the one before
        if length > 6:
            rows.append((f"u{(user * 17) % 40:02d}", f"i{first:02d}", time))  # once more
    rows += [("u39", f"i{item:02d}", START + SPACING * item) for item in range(12)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return frame.sample(frac=1, random_state=3).reset_index(drop=True)


def write_dataset(folder: Path, frame: pd.DataFrame) -> None:
    """Write RecBole's atomic files of a dataset named like its folder, with text features."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"user_id": "token", "item_id": "token", "timestamp": "float"}
    header = [f"{name}:{kinds.get(name, 'float')}" for name in frame]
    frame.to_csv(folder / f"{folder.name}.inter", sep="\t", index=False, header=header)
    items = sorted(frame["item_id"].astype(str).unique())
    vectors = np.random.default_rng(0).normal(size=(len(items), 8)).astype(np.float32)
    save_features(folder, "text", "toy", items, vectors)


@pytest.fixture(scope="session")
def interactions() -> pd.DataFrame:
    """The interactions of :func:`tiny_dataset`, in file order."""
    return tiny_interactions()


@pytest.fixture(scope="session")
def make_dataset() -> Callable[[Path, pd.DataFrame], None]:
    """:func:`write_dataset`, for tests that need other data."""
    return write_dataset


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``data_path`` holding the dataset ``tiny``; tests must not write there."""
    root = tmp_path_factory.mktemp("data")
    write_dataset(root / "tiny", tiny_interactions())
    return root


@pytest.fixture(scope="session")
def spread() -> pd.DataFrame:
    """Interactions of users who overlap in time, with ties; every fifth user begins late."""
    frame = tiny_interactions()
    begin = frame.groupby("user_id")["timestamp"].transform("min")
    late = frame["user_id"].str[1:].astype(int) % 5 == 0
    return frame.assign(timestamp=START + 500 * (frame["timestamp"] - begin) + 60_000 * late)


@pytest.fixture(scope="session")
def spread_data(spread: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``data_path`` holding :func:`spread` as the dataset ``tiny``."""
    root = tmp_path_factory.mktemp("spread")
    write_dataset(root / "tiny", spread)
    return root


@pytest.fixture
def quick(tiny_data: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings that make a run on ``tiny`` quick and quiet."""
    return {
        "data_path": str(tiny_data),
        "runs_dir": str(tmp_path / "runs"),
        "show_progress": False,
        "use_gpu": False,
        "threads": 1,
        "epochs": 2,
    }


@pytest.fixture(scope="session")
def small_model() -> dict[str, Any]:
    """HeLLM and its stages in the smallest sensible size."""
    return dict(SMALL_MODEL)


@pytest.fixture(scope="session")
def small_variant(small_model: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    """``small_variant(model)``: `small_model` for any model, with the sizes of its own stages."""
    from recbole_hellm.config.resolution import HellmConfig

    sizes = small_model | {
        "LightGCN.embedding_size": 8,
        "LightGCN.n_layers": 1,
        "LightGCN.train_batch_size": 32,
        "LightGCN.epochs": 1,
    }

    def pick(model: str) -> dict[str, Any]:
        run = {None, *(stage.model for stage in HellmConfig(model, "tiny").stages().values())}
        owners = {key: key.rpartition(".")[0] or None for key in sizes}
        return {key: value for key, value in sizes.items() if owners[key] in run}

    return pick


@pytest.fixture
def make_config(quick: dict[str, Any]) -> Callable[..., Any]:
    """``make_config(model, **overrides)``: the configuration of a quick run on ``tiny``."""
    from recbole_hellm.config.resolution import HellmConfig

    return lambda model, **overrides: HellmConfig(model, "tiny", quick | overrides)


@pytest.fixture
def make_parts(make_config: Callable[..., Any]) -> Callable[..., Any]:
    """``make_parts(model, **overrides)``: configuration, dataset and its three splits."""
    from recbole_hellm.data.interactions.dataset import create_dataset

    def make(model: str, **overrides: Any) -> tuple[Any, Any, list[Any]]:
        config = make_config(model, **overrides)
        dataset = create_dataset(config)
        return config, dataset, dataset.build()

    return make


@pytest.fixture(autouse=True)
def _no_raw_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests on made-up data must not find real files through the environment."""
    if "realdata" not in request.keywords:
        monkeypatch.delenv("HELLM_RAW_DIR", raising=False)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model that needs its folder's own code, while "y" waits for whoever asks about it."""
    folder, trace = tmp_path / "scripted", tmp_path / "trace"
    folder.mkdir()
    own = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": own}))
    (folder / "own.py").write_text(
        f"open({str(trace)!r}, 'w').write('ran')\n"
        "from transformers import PreTrainedConfig, PreTrainedModel\n"
        "class OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n"
        "class OwnModel(PreTrainedModel):\n    config_class = OwnConfig\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    yield folder
    assert not trace.exists()


# Kept records ----------------------------------------------------------------------------------

N_USERS = 60
USERS = [f"u{n:02d}" for n in range(N_USERS)]


def ranks_of(higher: Sequence[int], tied: Sequence[int] | None = None) -> Ranks:
    """Ranks of users 0..U-1 among 100 candidates."""
    count = len(higher)
    ties = np.zeros(count, dtype=np.int64) if tied is None else np.asarray(tied)
    return Ranks(np.arange(count), np.asarray(higher), ties, np.full(count, 100))


def groups() -> UserSlices:
    """Two groups under each of the groupings that tables show."""
    codes = np.arange(N_USERS) % 2
    names = ("history_length", "target_popularity", "target_warmth", "target_ties")
    return UserSlices(np.arange(N_USERS), {n: Grouping(("few", "many"), codes) for n in names})


@pytest.fixture
def make_kept(tmp_path: Path) -> Callable[..., Record]:
    """Write a record with given ranks and read it back."""

    def make(
        model: str,
        higher: Sequence[int],
        seed: int = 2024,
        settings: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Record:
        dataset = fields.get("dataset", "tiny")
        own = {"model": model, "seed": seed, **(settings or {})}
        identity = {"split": "s" * 64, "features": "f", "stages": {}, "version": "0.1.0"}
        recipe = content_hash(recipe_of({**identity, "settings": own}))
        folder = tmp_path / "records" / dataset / model / f"{recipe}"
        folder.mkdir(parents=True)
        ranks = {
            name: ranks_of(np.asarray(higher) + shift)
            for name, shift in (("seen", 0), ("train", 1), ("none", 2))
        }
        metrics = {name: SLICED.of_ranks(of) for name, of in ranks.items()}
        record = {
            "model": model,
            "dataset": dataset,
            "masking": "seen",
            "split": "s" * 64,
            "candidates": "c" * 64,
            "users": N_USERS,
            "items": 100,
            "seed": seed,
            "best_epoch": 4,
            "epochs": 6,
            "valid": {"seen": metrics["seen"]},
            "test": metrics,
            "cost": {
                "train_seconds": 120.0,
                "train_cpu_seconds": 90.0,
                "test_seconds": 1.25,
                "peak_memory_mb": 1000.0,
                "parameters": 3_000_000,
                "trainable_parameters": 2_000_000,
            },
            "cost_with_stages": {"train_seconds": 220.0, "train_cpu_seconds": 190.0},
            "stages": {},
            "features": {"text": "toy"},
            "recipe": recipe,
        } | fields
        write_record_ranks(folder / "ranks.parquet", compress_ranks(in_token_order(ranks, USERS)))
        rows = [
            metrics_by_slice(of, groups(), SLICED).assign(masking=name)
            for name, of in ranks.items()
        ]
        pd.concat(rows).to_csv(folder / "slices.csv", index=False)
        (folder / "config.yaml").write_text(yaml.safe_dump(own))
        (folder / "identity.json").write_text(json.dumps(identity))
        (folder / "environment.json").write_text("{}")
        (folder / "metrics.json").write_text(json.dumps(record))
        return read_records(tmp_path / "records", dataset)[recipe]

    return make


@pytest.fixture
def good() -> list[int]:
    """Ranks of a method that finds the targets of two users in three."""
    return [0 if n % 3 else 40 for n in range(N_USERS)]


@pytest.fixture
def poor() -> list[int]:
    """Ranks of a method that finds every tenth target, lower down."""
    return [4 if n % 10 == 0 else 50 for n in range(N_USERS)]


# docs/extending.md and the pages beside it -----------------------------------------------------


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """``example(name)``: the arguments of the commands of a page, or section of docs/extending.md.

    The files that it shows are written into an empty folder, which becomes the working directory.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name: str) -> list[list[str]]:
        own = REPOSITORY / f"docs/{name}.md"
        if own.exists():
            section = own.read_text(encoding="utf-8")
        else:
            page = (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")
            section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for shown, content in re.findall(
            r"^`([\w./-]+\.\w+)`:\n\n```\w*\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE
        ):
            file = tmp_path / shown
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
            monkeypatch.delitem(sys.modules, file.stem, raising=False)
        fences = re.findall(r"^```\w*\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
        lines = (line for fence in fences for line in fence.splitlines())
        words = [shlex.split(line) for line in lines if line.startswith("recbole-hellm ")]
        return [line[1:] for line in words]

    return write
