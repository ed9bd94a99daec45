"""Columns of cost, and the notes that explain them."""

from __future__ import annotations

from collections.abc import Callable

from recbole_hellm.benchmark.methods import Method, methods
from recbole_hellm.benchmark.records import Record
from recbole_hellm.reporting.costs import cost_columns, cost_notes, training_time

Make = Callable[..., Record]


def row(shown: Method, among: list[Method]) -> dict[str, str]:
    """The columns of a method in a table of several."""
    return {head: show(shown) for head, show in cost_columns(among).items()}


def test_columns_are_means_over_seeds(make_kept: Make, good: list[int]) -> None:
    second = {
        "cost": {
            "train_seconds": 240.0,
            "train_cpu_seconds": 1110.0,
            "test_seconds": 2.25,
            "peak_memory_mb": 3000.0,
            "parameters": 3_000_000,
            "trainable_parameters": 3_000_000,
        },
        "cost_with_stages": {"train_seconds": 240.0, "train_cpu_seconds": 2210.0},
        "best_epoch": 8,
    }
    (method,) = methods({"A": [make_kept("A", good), make_kept("A", good, seed=1, **second)]})
    assert row(method, [method]) == {
        "best epoch": "6",
        "training, s": "600 (1,200)",  # with the stages in brackets
        "test, s": "1.8",
        "memory, GB": f"{2000 * 2**20 / 1e9:.1f}",
        "trained, M": "2.50 of 3.00",
    }


def test_equal_figures_are_shown_once(make_kept: Make, good: list[int]) -> None:
    cost = {"train_cpu_seconds": 90.0, "parameters": 2_000_000, "trainable_parameters": 2_000_000}
    run = make_kept("A", good, cost=cost, cost_with_stages={"train_cpu_seconds": 90.0})
    (method,) = methods({"A": [run]})
    columns = row(method, [method])
    assert columns["training, s"] == "90"
    assert columns["trained, M"] == "2.00"


def test_what_was_not_measured_is_left_open(make_kept: Make, good: list[int]) -> None:
    (method,) = methods({"A": [make_kept("A", good, cost={}, cost_with_stages={})]})
    columns = row(method, [method])
    del columns["best epoch"]
    assert set(columns.values()) == {"–"}


def test_costs_of_stages_that_are_not_known_are_marked(
    make_kept: Make, good: list[int], poor: list[int]
) -> None:
    alone, staged = compared = methods(
        {
            "LightGCN": [make_kept("LightGCN", poor, cost_with_stages={})],
            "HeLLM": [make_kept("HeLLM", good, stages={"graph": "x"}, cost_with_stages={})],
        }
    )
    assert row(alone, compared)["training, s"] == "90"
    assert row(staged, compared)["training, s"] == "90 (?)"
    assert cost_notes(compared)[-1].endswith("so the plot of cost lacks HeLLM.")
    assert not any("?" in note for note in cost_notes([alone]))


def test_costs_of_cpus_are_processor_time(make_kept: Make, good: list[int]) -> None:
    compared = methods({"A": [make_kept("A", good)]})
    assert training_time(compared) == "train_cpu_seconds"
    (note,) = cost_notes(compared)
    assert note.startswith("Training is processor time of all threads")


def test_costs_of_gpus_are_by_the_clock_and_hardware_is_named(
    make_kept: Make, good: list[int], poor: list[int]
) -> None:
    runs = {"A": [make_kept("A", good)], "B": [make_kept("B", poor)]}
    (runs["A"][0].path / "environment.json").write_text('{"gpu": "H100"}')
    compared = methods(runs)
    assert training_time(compared) == "train_seconds"
    assert row(compared[0], compared)["training, s"] == "120 (220)"
    first, second = cost_notes(compared)
    assert first.endswith("Trained on: CPU, H100.")
    assert second == "Costs of different hardware do not compare."
    (only,) = cost_notes(compared[:1])
    assert only.endswith("Trained on: H100.")


def test_costs_of_a_method_are_of_one_kind_of_hardware(make_kept: Make, good: list[int]) -> None:
    slow = {"cost": {"train_seconds": 600.0, "test_seconds": 9.0, "peak_memory_mb": 1.0}}
    kept = [make_kept("A", good), make_kept("A", good, seed=9999, **slow)]
    (kept[0].path / "environment.json").write_text('{"gpu": "H100"}')
    (method,) = methods({"A": kept})
    assert row(method, [method])["training, s"] == "120 (220)"
    assert cost_notes([method])[-1] == (
        "Costs of A are means over the runs on the hardware of the first seed."
    )
