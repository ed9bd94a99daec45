"""The points of a figure as a table."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from recbole_hellm.benchmark.plans.shapes import Exempt, Figure, Panel
from recbole_hellm.benchmark.records import Record
from recbole_hellm.errors import RunError
from recbole_hellm.reporting.points import Points, results, sheet

Make = Callable[..., Record]
PANELS = (Panel("K", {"knn_k": (1, 5)}), Panel("d", {"embedding_size": (64,), "name": ("x",)}))
METRICS = ("recall@10", "ndcg@10")
FIGURE = Figure("f", "Toy figure", "LightGCN", PANELS, METRICS)


@pytest.fixture
def points(make_kept: Make, good: list[int], poor: list[int]) -> Points:
    return [
        ({"panel": "K", "knn_k": 1}, make_kept("LightGCN", good, seed=1)),
        ({"panel": "d", "embedding_size": 64, "name": "x"}, make_kept("LightGCN", poor, seed=2)),
    ]


def test_a_row_for_each_run(points: Points) -> None:
    data = results(FIGURE, points)
    assert list(data.columns) == [
        *("panel", "knn_k", "embedding_size", "name", "seed"),
        *("recall@10", "ndcg@10", "valid recall@10", "valid ndcg@10"),
    ]
    assert data["panel"].tolist() == ["K", "d"]
    assert data["seed"].tolist() == [1, 2]
    assert data["knn_k"].isna().tolist() == [False, True]
    for row, (_, run) in zip(data.to_dict("records"), points, strict=True):
        for metric in METRICS:
            # The paper masks training items here; the epoch was chosen under the run's masking.
            assert row[metric] == run.metrics("train")[metric]
            assert row[f"valid {metric}"] == run.record["valid"]["seen"][metric]
    assert data["ndcg@10"].tolist() != data["valid ndcg@10"].tolist()


def test_sequential_models_are_measured_without_masking(make_kept: Make, good: list[int]) -> None:
    run = make_kept("SASRec", good)
    figure = Figure("f", "F", "SASRec", PANELS[:1], METRICS)
    data = results(figure, [({"panel": "K", "knn_k": 1}, run)])
    assert data["ndcg@10"].tolist() == [run.metrics("none")["ndcg@10"]]
    assert run.metrics("none")["ndcg@10"] != run.metrics("train")["ndcg@10"]


def test_settings_that_no_run_has_are_columns(points: Points) -> None:
    data = results(FIGURE, points[:1])
    assert data["embedding_size"].isna().all()
    assert data["name"].isna().all()


def test_runs_that_were_measured_otherwise_are_refused(
    make_kept: Make, good: list[int], points: Points
) -> None:
    other = make_kept("LightGCN", good, seed=3, users=59)
    with pytest.raises(RunError, match="different numbers of test users"):
        results(FIGURE, [*points, ({"panel": "K", "knn_k": 5}, other)])


def test_cells_are_written_for_readers(points: Points) -> None:
    table = sheet(FIGURE, "tiny", points, ["A note."])
    assert (table.name, table.title) == ("points", "Toy figure: tiny")
    recall, ndcg = (points[0][1].metrics("train")[metric] for metric in METRICS)
    valid = [points[0][1].record["valid"]["seen"][metric] for metric in METRICS]
    numbers = [f"{value:.4f}" for value in (recall, ndcg, *valid)]
    # A setting of another panel stays empty.
    assert table.rows[0] == ["K", "1", "", "", "1", *numbers]
    assert table.rows[1][:5] == ["d", "", "64", "x", "2"]
    assert list(table.notes) == [
        "Test metrics under mask_history=train, epochs chosen by validation.",
        "Plots mark the settings that hold elsewhere, the defaults if nothing else was given.",
        "A note.",
    ]
    assert table.data is not None
    pd.testing.assert_frame_equal(table.data, results(FIGURE, points))


def test_exemptions_are_told_where_they_are_true(make_kept: Make, good: list[int]) -> None:
    exempt = Exempt({"knn_k": 1}, {"stopping_step": 29}, "Waits for longer.")
    figure = Figure("f", "F", "LightGCN", PANELS[:1], METRICS, (exempt,))
    first, second = {"panel": "K", "knn_k": 1}, {"panel": "K", "knn_k": 5}
    patient = make_kept("LightGCN", good, seed=1, settings={"stopping_step": 29})
    hasty = make_kept("LightGCN", good, seed=2, settings={"stopping_step": 5})
    for runs, told in (
        ([(first, patient), (second, hasty)], True),
        ([(first, patient), (first, hasty)], False),
        ([(second, patient)], False),  # no run that the exemption covers
    ):
        assert ("Waits for longer." in sheet(figure, "tiny", runs).notes) == told
