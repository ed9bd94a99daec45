"""How time and memory grow with the number of users.

python benchmarks/growth.py --users=10000,100000,1000000 --items=100000 --plot=growth.svg
python benchmarks/growth.py --smoke

A seeded generator writes ten interactions a user with a long tail of items, and two modalities of
64 numbers. Each size is prepared, read and split, and each model is trained for one epoch and
evaluated once, every one in a process of its own. Each finished point is a line of JSON in
--results; a benchmark that was interrupted goes on after the last of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth_report import plot, show, summarise

MODELS = ("HeLLMPre", "LightGCN", "FREEDOM", "SASRec", "HeLLM")
STAGES = ("HeLLMPre", "SASRec")
GRAPH_MODELS = ("HeLLMPre", "LightGCN", "FREEDOM")
PREPARING = "prepare"
READING = {"read (general)": "LightGCN", "read (sequential)": "SASRec"}
"""Points without training, and the model whose dataset they read."""
SMOKE = {"users": (300,), "items": 200}


@dataclasses.dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes
    ----------
    what : str
        A model, ``prepare``, or a key of :data:`READING`.
    users, items : int
        What the generator draws from.
    threads : int
    steps : int
        Steps of an epoch of models that propagate over the whole graph; 0 keeps their batches.
    """

    what: str
    users: int
    items: int
    threads: int
    steps: int

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from others in the file of results."""
        # Neither reading nor preparing has steps.
        return vars(self) | ({} if self.what in (*GRAPH_MODELS, "HeLLM") else {"steps": 0})

    @property
    def dataset(self) -> str:
        """Name of its dataset."""
        return f"growth-{self.users}-{self.items}"

    def overrides(self, work: Path, interactions: int = 0) -> dict[str, Any]:
        """Settings of its run; `interactions` is needed for a fixed number of steps."""
        settings: dict[str, Any] = {
            "data_path": str(work / "dataset"),
            "runs_dir": str(work / "runs"),
            "threads": self.threads,
            "device": "cpu",
            "show_progress": False,
            "projector": False,
            "epochs": 1,
            "eval_step": 1,
        }
        batch = {"train_batch_size": max(1, interactions // self.steps)} if self.steps else {}
        if self.what == "HeLLM":
            settings["backbone"] = "tiny"
            for stage in STAGES:
                own = {"epochs": 1, "eval_step": 1} | (batch if stage in GRAPH_MODELS else {})
                settings |= {f"{stage}.{key}": value for key, value in own.items()}
        elif self.what in GRAPH_MODELS:
            settings |= batch
        return settings


def points(options: argparse.Namespace) -> Iterator[Point]:
    """All points of the benchmark, small sizes first, and stages before what builds on them."""
    models = {*options.models, *(STAGES if "HeLLM" in options.models else ())}
    kinds = [models & {*GRAPH_MODELS}, models - {*GRAPH_MODELS}]
    reading = [what for what, kind in zip(READING, kinds, strict=True) if kind]
    largest = max(options.users)
    for users in sorted(options.users):
        trained = models
        if users == largest and options.largest:
            trained = models & {*options.largest}
        for what in (PREPARING, *reading, *(model for model in MODELS if model in trained)):
            yield Point(what, users, options.items, options.threads, options.steps)


def measure(point: Point, work: Path) -> dict[str, Any]:
    """Carry out a point in this process."""
    torch.set_num_threads(point.threads)
    if point.what == PREPARING:
        return _prepared(point, work)
    if point.what in READING:
        return _read(point, work)
    return _trained(point, work)


def _peak_mb() -> float:
    from recbole_hellm.training.memory import peak_memory_mb

    return round(peak_memory_mb(torch.device("cpu")))


def _prepared(point: Point, work: Path) -> dict[str, Any]:
    """Make the atomic files from a table, as ``recbole-hellm prepare --interactions`` does."""
    from recbole_hellm.data.preparation.prepare import prepare
    from recbole_hellm.data.preparation.settings import PrepareSettings

    table, folder = work / f"{point.dataset}.csv", work / "dataset" / point.dataset
    arguments = [str(table), str(point.users), str(point.items), "--features", str(folder)]
    script = Path(__file__).with_name("growth_data.py")
    # In a process of its own, so that the generator's memory is not in the peak.
    subprocess.run([sys.executable, str(script), *arguments], check=True)  # noqa: S603
    settings = PrepareSettings(interactions=str(table), runs_dir=str(work / "runs"), k_core=0)
    started = time.perf_counter()
    manifest = prepare(point.dataset, folder, settings, progress=False)
    seconds, peak = time.perf_counter() - started, _peak_mb()
    table.unlink()
    return _sizes(manifest) | {"prepare_s": seconds, "peak_mb": peak}


def _sizes(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "interactions": manifest["interactions"],
        "pairs": manifest["users"] * manifest["items"],
        "items_seen": manifest["items"],
    }


def _manifest(point: Point, work: Path) -> dict[str, Any]:
    path = work / "dataset" / point.dataset / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def _read(point: Point, work: Path) -> dict[str, Any]:
    """Read, filter and order the interactions, hash them, and split them."""
    from recbole_hellm.config.resolution import HellmConfig
    from recbole_hellm.runs.identity import run_identity
    from recbole_hellm.runs.opening import open_dataset, open_splits

    config = HellmConfig(READING[point.what], point.dataset, point.overrides(work))
    times = [time.perf_counter()]
    dataset = open_dataset(config, features=False)
    times.append(time.perf_counter())
    run_identity(config, dataset)
    times.append(time.perf_counter())
    open_splits(config, dataset)
    times.append(time.perf_counter())
    parts = dict(zip(("read_s", "hash_s", "split_s"), np.diff(times).tolist(), strict=True))
    return _sizes(_manifest(point, work)) | parts | {"peak_mb": _peak_mb()}


def _trained(point: Point, work: Path) -> dict[str, Any]:
    """Train a model for one epoch and evaluate it."""
    from recbole_hellm import run

    sizes = _sizes(_manifest(point, work))
    overrides = point.overrides(work, sizes["interactions"])
    record = run(point.what, point.dataset, **overrides).record
    cost = record["cost"]
    return sizes | {
        "epoch_s": cost["train_seconds"] / record["epochs"],
        "epoch_cpu_s": cost["train_cpu_seconds"] / record["epochs"],
        "evaluation_s": cost["test_seconds"],
        "total_s": cost["total_seconds"],
        # A finished run is read again; its own process knew its peak.
        "peak_mb": max(_peak_mb(), round(cost["peak_memory_mb"])),
    }


def finished(file: Path) -> list[dict[str, Any]]:
    """The points in a file of results; a line that was cut off in writing is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            logging.warning("%s: a line that was cut off is left out.", file)
    return found


def carry_out(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all points that are not in the file of results, and return the points asked for."""
    file: Path = options.results
    known = finished(file)
    wanted, failed = [], []
    for point in points(options):
        match = [one for one in known if one.items() >= point.key.items()]
        folder = options.work / "dataset" / point.dataset
        if match and (point.what != PREPARING or folder.is_dir()):
            wanted.append(match[-1])
            continue
        print(f"{point.users:,} users: {point.what}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, f"--work={options.work}", "--point"]
        done = subprocess.run(  # noqa: S603
            [*command, json.dumps(vars(point))], stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            failed.append(f"{point.what} of {point.users:,} users")
            if point.what == PREPARING:
                break
            continue
        result = point.key | json.loads(done.stdout.splitlines()[-1])
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            # A cut line before it must not swallow this one.
            stream.write(("\n" if _is_cut(file) else "") + json.dumps(result) + "\n")
        wanted.append(result)
    if failed:
        show(wanted)
        raise SystemExit(f"Not measured: {', '.join(failed)}; see above, then start again.")
    return wanted


def _is_cut(file: Path) -> bool:
    text = file.read_bytes()
    return bool(text) and not text.endswith(b"\n")


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from a list with commas."""
    return tuple(int(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Names from a list with commas."""
    return tuple(text.split(","))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=numbers, default=(10_000, 100_000, 1_000_000))
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--models", type=names, default=MODELS)
    parser.add_argument(
        "--largest",
        type=names,
        default=(),
        help="those of --models that are trained with the most users, too; all by default",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--steps", type=int, default=0, help="steps of an epoch of graph models; 0: their batches"
    )
    parser.add_argument("--work", type=Path, default=Path("growth"), help="folder of data and runs")
    parser.add_argument("--results", type=Path, help="file of results; WORK/results.jsonl")
    parser.add_argument("--plot", type=Path, help="draw to this file, such as growth.svg")
    parser.add_argument("--smoke", action="store_true", help="300 users and 200 items")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.point:
        print(json.dumps(measure(Point(**json.loads(options.point)), options.work)))
        return
    for option, given, known in (
        ("models", options.models, MODELS),
        ("largest", options.largest, options.models),
    ):
        unknown = sorted({*given} - {*known})
        if unknown:
            parser.error(f"--{option}: {', '.join(unknown)} not among {', '.join(known)}")
    if options.smoke:
        options.users, options.items = SMOKE["users"], SMOKE["items"]
    options.results = options.results or options.work / "results.jsonl"
    results = carry_out(options)
    show(results)
    if options.plot:
        plot(results, options.plot)
    summarise(results)


if __name__ == "__main__":
    main()
