from __future__ import annotations

import pytest

from recbole_hellm.reporting.curves import COLOURS, curve_lines, metric_bars


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
    assert not any(bar.error_y.visible for bar in figure.data)
    with pytest.raises(KeyError):
        metric_bars({"A": {}}, {})


def test_bars_have_whiskers_where_intervals_are_known() -> None:
    values = {"A": {"ndcg@10": 0.1, "recall@10": 0.2}, "B": {"ndcg@10": 0.3}}
    intervals = {"A": {"ndcg@10": (0.08, 0.13)}}
    first, second = metric_bars(values, {"A": "red", "B": "blue"}, intervals).data
    assert first.error_y.array == pytest.approx((0.03, 0.0))
    assert first.error_y.arrayminus == pytest.approx((0.02, 0.0))
    assert (first.error_y.visible, second.error_y.visible) == (True, False)
