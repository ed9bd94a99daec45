"""The scripts of ``benchmarks/`` compute what they say."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
QUICK = ["--users=8", "--samples=16", "--reference-users=2", "--reference-samples=7"]
QUICK += ["--batch=8", "--eval-users=4", "--threads=1", "--no-compile", "--dtype=float32"]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (["--sizes", "2", "16", "20", "2", "1"], 4),
        (["--sizes", "1", "16", "20", "2", "2", "--prefix=static", "--projection=direct"], 5),
        (["--sizes", "1", "16", "20", "2", "2", "--prefix=none", "--checkpointing"], 5),
    ],
    ids=["graph", "static", "none"],
)
def test_throughput_script_checks_the_reference_and_prints_ratios(
    options: list[str], rows: int
) -> None:
    command = [sys.executable, str(BENCHMARKS / "llm_throughput.py"), *QUICK, *options]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "relative differences of scores" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(("training", "evaluat"))]
    assert len(lines) == rows
    assert all(line.endswith("x") for line in lines)


def test_sparse_products_are_checked_and_printed_as_ratios() -> None:
    options = ["--size=small", "--dims=8", "--rounds=2"]
    command = [sys.executable, str(BENCHMARKS / "sparse_products.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("d = 8")]
    assert len(lines) == 10
    assert all(line.endswith("x") for line in lines)


def test_scale_of_neighbours_is_measured_and_checked() -> None:
    options = ["--items=3000", "--dim=8", "--k=4", "--threads=1", "--checked=20"]
    command = [sys.executable, str(BENCHMARKS / "knn_scale.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "3,000 items x 8, K=4" in done.stdout
    assert done.stdout.rstrip().endswith("0 wrong of 80 neighbours checked")


@pytest.mark.parametrize("search", ["faiss-flat", "faiss-hnsw", "faiss-ivf"])
def test_searches_of_faiss_are_compared_with_exact_search(search: str) -> None:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    options = ["--items=3000", "--dim=8", "--k=4", "--threads=1", "--clusters=20"]
    command = [sys.executable, str(BENCHMARKS / "knn_scale.py"), *options, f"--search={search}"]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["benchmark"] == search.replace("faiss-", "neighbours_")
    found = line["figures"]
    assert (found["items"], found["k"]) == (3000, 4)
    assert found["recall"] > 0.9 and found["seconds"] > 0
    assert found["ratio"] == pytest.approx(found["exact_seconds"] / found["seconds"])
    assert line["goals"][0]["value"] == found["ratio"]
    assert found["same_graph"] or search != "faiss-flat"
    assert ("of the nearest items of a sample" in done.stderr) == (search != "faiss-flat")


def test_the_check_of_neighbours_counts_wrong_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # where the scripts look for each other
    check = runpy.run_path(str(BENCHMARKS / "knn_scale.py"))["check"]
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit.T), axis=1)
    rows, right = np.arange(40), order[:, :10]
    assert check(features, right, rows) == 0
    assert check(features, np.repeat(right[:, :1], 10, axis=1), rows) == 40 * 9  # itself x 10
    swapped = right.copy()
    swapped[3, [4, 5]] = right[3, [5, 4]]
    assert check(features, swapped, rows) == 2
    assert check(features, right[:, ::-1], rows) == 40 * 10
    beyond = right.copy()
    beyond[:, 9] = order[:, 10]
    assert check(features, beyond, rows) == 40
    # The same item twice is wrong although another one is just as similar.
    twin = np.concatenate([features, features[:1]])
    pair = np.array([[0, 40], [0, 0]])
    assert [check(twin, pair[[choice]], np.array([0])) for choice in (0, 1)] == [0, 1]


def test_tables_of_a_page_are_replaced_and_nothing_else() -> None:
    refreshed = runpy.run_path(str(BENCHMARKS / "readme_results.py"))["refreshed"]
    readme = "# A\n\n### T1\n\n| a |\n| - |\n| 1 |\n\nOld note.\n\n- Point.\n"
    readme += "\n### T3\n\n| c |\n\nText.\n"
    results = "### T1\n\n| a | b |\n| - | - |\n| 1 | 3 |\n\nNew note.\n\n### T2\n\n| x |\n"
    wanted = readme.replace("| a |\n| - |\n| 1 |\n\nOld", "| a | b |\n| - | - |\n| 1 | 3 |\n\nNew")
    assert refreshed(readme, results) == wanted
    assert refreshed(wanted, results) == wanted
    assert refreshed("### T1\n\n| a |\n\n- Point.\n", "### T1\n\n| b |\n") == (
        "### T1\n\n| b |\n\n- Point.\n"
    )


def test_no_row_of_a_page_is_lost() -> None:
    refreshed = runpy.run_path(str(BENCHMARKS / "readme_results.py"))["refreshed"]
    readme = "### T1\n\n| |\n| - |\n| Pop |\n| SASRec |\n"
    with pytest.raises(SystemExit, match="The records lack SASRec, which the page shows"):
        refreshed(readme, "### T1\n\n| |\n| - |\n| Pop |\n| New |\n")


@pytest.mark.parametrize("task", ["every", "paper"])
def test_an_epoch_is_measured_beside_the_former_computation(task: str) -> None:
    options = [f"--task={task}", "--layers=1", "--repeats=1", "--batch=8", "--eval-users=4"]
    options += ["--threads=1", "--types=bfloat16:bfloat16", "--items=300"]
    command = [sys.executable, str(BENCHMARKS / "smollm2_epoch.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("training", "evaluat"))]
    assert [line.split()[0] for line in lines] == ["training", "evaluation"]
    assert all(float(ratio) > 0 for line in lines for ratio in line.split()[1:])


def test_the_page_on_scale_has_what_the_script_counts() -> None:
    script = runpy.run_path(str(BENCHMARKS / "scale_on_paper.py"))
    page = (BENCHMARKS.parent / "docs/scale.md").read_text(encoding="utf-8")
    assert all(f"\n\n{table}\n\n" in page for table in script["tables"]())
    size, gpu_bytes, gpu_operations = script["LARGE"], 4.8e12, 67e12
    step = sum(script["traffic"](size).values())
    epochs = [size.steps, script["Size"](**vars(size) | {"batch": 65_536}).steps]
    days, hours = (steps * step / gpu_bytes / 86_400 for steps in epochs)
    neighbours, ranking, head = script["operations"](size).values()
    counted = [
        f"moves {step / 1e12:.1f} TB, at least {step / gpu_bytes:.2f} s",
        f"at least {days:.1f} days of one GPU, {days / 8:.1f} days of eight",
        f"{hours * 24:.1f} hours of one GPU, {hours * 24 * 60 / 8:.0f} minutes of eight",
        f"{script['exchanged'](size) / 1e9:.1f} GB, which a ring sends nearly twice",
        f"at least {neighbours / gpu_operations:.0f} s of one GPU",
        f"at least {ranking / gpu_operations:,.0f} s of one GPU",
        f"least {head / gpu_operations / 3600:.0f} hours of one GPU",
    ]
    words = " ".join(page.split())
    assert [claim for claim in counted if claim not in words] == []


def test_a_step_on_paper_moves_what_its_products_read_and_write() -> None:
    """A graph so small that the rows can be counted one by one."""
    script = runpy.run_path(str(BENCHMARKS / "scale_on_paper.py"))
    size = script["Size"]("toy", 3, 2, 4, modalities=1, features=5, dim=1, neighbours=2)
    # Per product: a float and an index for each entry, and a float for each row of the result.
    to_users, to_items = 4 * 8 + 3 * 4, 4 * 8 + 2 * 4
    over_items = 2 * (4 * 8 + 2 * 4)  # 2 items with 2 neighbours each, as many hyperedges
    expected = 4 * (to_users + to_items) + over_items
    assert script["traffic"](size) == {
        "sparse products, forward": expected,
        "sparse products, backward": expected,
        "Adam": 7 * 2 * 5 * 4,
    }
    assert sum(script["memory"](size).values()) == 12 * 5 * 4 + (32 + 40) + (32 + 32)
