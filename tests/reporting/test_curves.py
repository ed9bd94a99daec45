from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from recbole_hellm.reporting.curves import COLOURS, curve_lines, metric_bars, read_curves


def test_curves_of_a_resumed_run_are_one(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    for start, add in ((0, 0.0), (2, 10.0)):  # epochs 3 and 4 were trained again
        with SummaryWriter(str(tmp_path), filename_suffix=f".{start}") as writer:
            for epoch in range(start, 4):
                writer.add_scalar("loss/total", epoch + add, epoch)
            writer.add_scalar("valid/ndcg@10", 0.5, start)
    with SummaryWriter(str(tmp_path / "hparams")) as writer:
        writer.add_scalar("other", 1.0, 0)
    curves = read_curves(tmp_path)
    assert set(curves) == {"loss/total", "valid/ndcg@10"}
    assert curves["loss/total"] == [(1, 0.0), (2, 1.0), (3, 12.0), (4, 13.0)]


def test_long_curves_are_kept_whole(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for epoch in range(1500):
            writer.add_scalar("loss/total", 1.0, epoch)
    assert len(read_curves(tmp_path)["loss/total"]) == 1500


def test_the_chosen_epoch_has_a_ring() -> None:
    colours = {"A<b>": COLOURS[0]}
    figure = curve_lines({"A<b>": [(1, 0.1), (2, 0.3), (3, 0.2)]}, colours, {"A<b>": 2}, 300)
    (line,) = figure.data
    assert line.marker.symbol == ("circle", "circle-open", "circle")
    assert (line.x, line.y, line.name) == ((1, 2, 3), (0.1, 0.3, 0.2), "A&lt;b&gt;")


def test_bars_are_the_metrics() -> None:
    figure = metric_bars(
        {"A": {"ndcg@10": 0.1, "recall@10": 0.2}, "B": {"ndcg@10": 0.3, "recall@10": 0.4}},
        {"A": "red", "B": "blue"},
    )
    assert [(bar.name, bar.y, bar.marker.color) for bar in figure.data] == [
        ("A", (0.1, 0.2), "red"),
        ("B", (0.3, 0.4), "blue"),
    ]
    assert figure.layout.showlegend
    with pytest.raises(KeyError):
        metric_bars({"A": {}}, {})
