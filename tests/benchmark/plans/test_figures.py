from __future__ import annotations

import pytest

from recbole_hellm.benchmark.plans.figures import FIGURES
from recbole_hellm.config.resolution import HellmConfig


@pytest.mark.parametrize("name", ["fig3", "fig4"])
def test_every_point_of_a_figure_is_a_valid_setting(name: str) -> None:
    figure = FIGURES[name]
    for panel in figure.panels:
        points = list(panel.points())
        assert len({tuple(point.values()) for point in points}) == len(points)
        for point in points:
            config = HellmConfig(figure.model, "Beauty", point)
            assert {key: config[key] for key in point} == point


def test_figures_hold_the_papers_grids() -> None:
    fig3, fig4 = FIGURES["fig3"], FIGURES["fig4"]
    sizes = [len(list(panel.points())) for panel in fig3.panels]
    assert [panel.title for panel in fig3.panels] == ["K", "τ", "λ", "d"]
    assert sizes == [7, 10, 5, 6]
    (panel,) = fig4.panels
    assert len(list(panel.points())) == 36
    # The defaults are among the points, so that their run serves both.
    config = HellmConfig("HeLLMPre", "Beauty")
    for one in (*fig3.panels, panel):
        assert {key: config[key] for key in one.axes} in list(one.points())
