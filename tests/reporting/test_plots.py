from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.transforms import Bbox

from recbole_hellm.benchmark.methods import methods
from recbole_hellm.benchmark.plans.shapes import Figure, Panel
from recbole_hellm.benchmark.records import Record
from recbole_hellm.reporting.plots import _name, quality_and_cost, sweep


def texts(path: Path) -> list[str]:
    """What is written in an SVG file."""
    root = ET.parse(path).getroot()  # noqa: S314 (our own file)
    return [
        "".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_quality_over_cost(
    make_kept: Callable[..., Record], good: list[int], poor: list[int], tmp_path: Path
) -> None:
    silent = make_kept("Silent", good, cost_with_stages={})
    found = methods(
        {
            "A": [make_kept("A", good, seed=1), make_kept("A", poor, seed=2)],
            "B": [make_kept("B", poor)],
            "Silent": [silent],
        }
    )
    path = quality_and_cost(found, "recall@10", "seen", tmp_path / "out/cost.svg")
    shown = texts(path)
    assert {"A", "B"} <= set(shown)
    assert "Silent" not in shown
    assert "Recall@10, seen items masked" in shown
    data = pd.read_csv(path.with_suffix(".csv"))
    assert data["method"].tolist() == ["A", "B"]
    values = found[0].values("recall@10", "seen")
    np.testing.assert_allclose(data["recall@10"], [values.mean(), 0.1])
    np.testing.assert_allclose(data["std"], [values.std(ddof=1), np.nan])
    assert "bars: one standard deviation over seeds" in shown
    alone = texts(quality_and_cost(found[1:2], "recall@10", "seen", tmp_path / "alone.svg"))
    assert not any("bars" in text for text in alone)
    np.testing.assert_allclose(data["minutes"], 190 / 60)


def test_hardware_is_told_apart(
    make_kept: Callable[..., Record], good: list[int], poor: list[int], tmp_path: Path
) -> None:
    runs = {"A": [make_kept("A", good)], "B": [make_kept("B", poor)], "C": [make_kept("C", poor)]}
    (runs["A"][0].path / "environment.json").write_text('{"gpu": "H100"}')
    path = quality_and_cost(methods(runs), "recall@10", "seen", tmp_path / "cost.svg")
    assert [text for text in texts(path) if text in ("CPU", "H100")] == ["H100", "CPU"]
    data = pd.read_csv(path.with_suffix(".csv"))
    assert data["hardware"].tolist() == ["H100", "CPU", "CPU"]


def test_names_of_equal_points_do_not_cover_one_another(
    make_kept: Callable[..., Record], good: list[int], tmp_path: Path
) -> None:
    found = methods({f"Method {n}": [make_kept(f"Method{n}", good)] for n in range(9)})
    path = quality_and_cost(found, "recall@10", "seen", tmp_path / "cost.svg")
    places = {
        "".join(node.itertext()).strip(): node.get("transform") or node.get("x")
        for node in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")  # noqa: S314
    }
    assert len({places[method.name] for method in found}) == len(found)


def test_names_do_not_cover_other_points() -> None:
    axes = Canvas(figsize=(5.0, 3.5), dpi=72).add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    points = {"Left": (4.0, 5.0), "Right": (4.5, 5.3), "Far": (9.0, 1.0)}
    _name(axes, points)
    for text in axes.texts:
        x, y = axes.transData.transform(points[text.get_text()]) + text.xyann
        width = 5.5 * len(text.get_text())
        name = Bbox.from_bounds(x if text.get_ha() == "left" else x - width, y, width, 9)
        for point in points.values():
            assert not name.contains(*axes.transData.transform(point))


def test_lines_over_settings_and_a_map_of_two(tmp_path: Path) -> None:
    metrics = ("recall@20", "ndcg@20")
    panels = (Panel("K", {"knn_k": (1, 5)}), Panel("τ", {"tau": (0.1, 0.5)}))
    rows = [
        {"panel": panel.title, **point, "seed": 1, "recall@20": 0.05, "ndcg@20": 0.02}
        for panel in panels
        for point in panel.points()
    ]
    lines = sweep(Figure("f", "F", "M", panels, metrics), pd.DataFrame(rows), tmp_path / "f.svg")
    shown = texts(lines)
    assert {"K", "τ", "Recall@20", "NDCG@20"} <= set(shown)
    assert pd.read_csv(lines.with_suffix(".csv")).to_dict("list")["panel"] == ["K", "K", "τ", "τ"]
    panel = Panel("α x β", {"a": (0.0, 0.1), "b": (0.3, 0.5)})
    cells = [
        {"panel": panel.title, **p, "seed": 1, "recall@20": 0.01 * n + 0.05}
        for n, p in enumerate(panel.points())
    ]
    chart = sweep(
        Figure("g", "G", "M", (panel,), metrics[:1]), pd.DataFrame(cells[:3]), tmp_path / "g.svg"
    )
    shown = texts(chart)
    assert {"α", "β", ".0500", ".0600", ".0700"} <= set(shown)
    assert ".0800" not in shown  # a run that is missing leaves its place empty


def test_defaults_are_marked(tmp_path: Path) -> None:
    panels = (Panel("K", {"k": (1, 5)}), Panel("a x b", {"a": (0.0, 0.1), "b": (0.3, 0.5)}))
    for panel, colour in zip(panels, ("#808080", "#ff0000"), strict=True):
        rows = [{"panel": panel.title, **point, "recall@20": 0.1} for point in panel.points()]
        figure, data = Figure("f", "F", "M", (panel,), ("recall@20",)), pd.DataFrame(rows)
        inside, outside = {"k": 5, "a": 0.1, "b": 0.3}, {"k": 7, "a": 0.2, "b": 0.3}
        drawn = [
            sweep(figure, data, tmp_path / "f.svg", defaults).read_text().count(colour)
            for defaults in (inside, outside, None)
        ]
        assert drawn[0] > drawn[1] == drawn[2]


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    figure = Figure("f", "F", "M", (Panel("K", {"k": (1, 2)}),), ("recall@20",))
    data = pd.DataFrame({"panel": "K", "k": [1, 2], "seed": 1, "recall@20": [0.1, 0.2]})
    first, second = (sweep(figure, data, tmp_path / name) for name in ("a.svg", "b.svg"))
    assert first.read_text() == second.read_text()
    assert not re.search(r"20\d\d-\d\d-\d\d", first.read_text())
