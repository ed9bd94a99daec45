"""Small inputs, and the folders that commands make of them, stage by stage."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import yaml
from reliability.support.forks import call, command
from reliability.support.states import state, told
from reliability.support.workshop import imported, load
from support.small_model import SMALL_MODEL

USERS, ITEMS = 12, 22  # `compare` shows lists of 20
DATA = ("--dataset=shop", "--data_path=data")
QUIET = ("--show_progress=False", "--threads=1", "--use_gpu=False", "--runs_dir=runs")

PREPARE = ("prepare", *DATA, "--interactions=log.csv", "--items=items.csv")
ENCODE = ("encode", *DATA, "--text_encoder=tfidf")
IMPORT = ("import", *DATA, "--features=vectors.npy", "--tokens=tokens.txt", "--encoder=mine")
BPR = ("run", "--model=BPR", *DATA, *QUIET, "--epochs=2", "--embedding_size=8")
HELLM = (
    "run",
    "--model=HeLLM",
    *DATA,
    *QUIET,
    "--epochs=2",
    *(f"--{k}={v}" for k, v in SMALL_MODEL.items()),
)
TUNE = (
    *("tune", "--model=BPR", *DATA, *QUIET, "--epochs=2", "--embedding_size=8"),
    *("--space=space.yaml", "--trials=2", "--storage=studies.log"),
)
COMPARE = (
    *("compare", "--models=Pop,BPR", "--datasets=shop", "--data_path=data", *QUIET),
    *("--epochs=2", "--BPR.embedding_size=8", "--output=tables"),
)
REPORT = ("report", "runs/shop/BPR", "--output=report.html")
RECOMMEND = (
    *("recommend", "--run=runs/shop/BPR", "--all_users", "--topk=3", "--output=lists.csv"),
)

# Each stage stands on the one before it.
STAGES = {
    "inputs": (),
    "prepared": (PREPARE,),
    "data": (ENCODE, IMPORT),
    "runs": (BPR, HELLM),
    "records": (COMPARE, TUNE),
}


def inputs(folder: Path) -> None:
    """A log of a few users, a table of all their items, and vectors."""
    folder.mkdir(parents=True)
    rng = random.Random(3)  # noqa: S311 (data)
    rows = []
    for user in range(USERS):
        moment = 1_700_000_000 + rng.randrange(1000)
        for _ in range(rng.randint(4, 7)):
            rows.append((f"u{user:02d}", f"i{5 * len(rows) % ITEMS:02d}", str(moment)))
            moment += 60 * rng.randrange(2)
    lines = ["user_id,item_id,timestamp", *map(",".join, rows)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    titles = [f"i{n:02d},Title {n} word{n % 3} Ä,Kind{n % 2}" for n in range(ITEMS)]
    table = "\n".join(["item_id,title,categories", *titles])
    (folder / "items.csv").write_text(table + "\n", encoding="utf-8")
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 6)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    (folder / "tokens.txt").write_text("".join(f"i{n:02d}\n" for n in range(ITEMS)))
    space = {"learning_rate": [0.01, 0.001]}
    (folder / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")


def build(root: Path) -> dict[str, str]:
    """Make all stages below a folder; returns their paths by name. Warms this process up."""
    paths: dict[str, str] = {}
    before: Path | None = None
    modules: list[str] = []
    for name, commands in STAGES.items():
        path = root / name
        if before is None:
            inputs(path)
        else:
            shutil.copytree(before, path)
        for words in commands:
            modules += _warmed(words, path)
        paths[name], before = str(path), path
    for words in ((*BPR, "--force"), REPORT, RECOMMEND):
        scratch = root / "scratch"
        shutil.copytree(root / "runs", scratch)
        modules += _warmed(with_ids(words, scratch), scratch)
        shutil.rmtree(scratch)
    (root / "modules.json").write_text(json.dumps(modules))
    return paths


def _warmed(words: tuple[str, ...], folder: Path) -> list[str]:
    """Give a command in a fork, and import here what it imports."""
    modules = imported(command(words), folder)
    load(modules)
    return modules


def warm(root: Path) -> int:
    """Import what :func:`build` found; returns how many modules could be imported."""
    return load(json.loads((root / "modules.json").read_text()))


def run_of(folder: Path, model: str) -> str:
    """The only run of a model, as the command line takes it."""
    (found,) = sorted((folder / "runs/shop" / model).glob("[0-9a-f]*"))
    return found.relative_to(folder).as_posix()


def with_ids(words: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """A command with the ids of the runs that it names by their model alone."""
    if words[0] not in ("report", "recommend"):
        return words
    ids = {f"runs/shop/{model}": run_of(folder, model) for model in ("BPR", "HeLLM")}
    return tuple(
        next((word.replace(k, v) for k, v in ids.items() if word.endswith(k)), word)
        for word in words
    )


def golden(template: str, words: tuple[str, ...]) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """State, output and file operations of a command that nothing disturbs."""
    from reliability.support.workshop import copied

    with copied(Path(template)) as folder:
        ended = call(command(with_ids(words, folder)), folder)
        if ended.status != 0:
            raise AssertionError(f"{words}: {ended.status}\n{ended.out}\n{ended.err}")
        return state(folder), told(ended.out), ended.operations
