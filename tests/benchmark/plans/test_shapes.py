from __future__ import annotations

from recbole_hellm.benchmark.plans.shapes import Exempt, Figure, Panel


def test_exempt_points_match_whole_conditions() -> None:
    exempt = Exempt({"a": 0.0, "b": 1}, {"epochs": 9}, "why")
    figure = Figure("f", "F", "M", (Panel("a", {"a": (0.0, 1.0)}),), exempt=(exempt,))
    assert figure.exemptions({"a": 0.0, "b": 1}) == {"epochs": 9}
    for point in ({"a": 0.0}, {"a": 0.0, "b": 2}, {"b": 1}):
        assert figure.exemptions(point) == {}


def test_a_panel_crosses_its_axes() -> None:
    points = list(Panel("ab", {"a": (1, 2), "b": (3, 4)}).points())
    assert points == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]
