from __future__ import annotations

import numpy as np
import pytest
from growth_report import SCORES, exponent, exponents


def test_exponents_are_those_of_power_laws() -> None:
    sizes = [10.0, 100.0, 1000.0]
    assert exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert np.isnan(exponent([10.0], [3.0]))
    results = [
        {
            "what": "SASRec",
            "interactions": size,
            "items_seen": size**0.5,
            "pairs": size**2,
            "epoch_s": size,
            "evaluation_s": size**2,
            "peak_mb": 7 * size**0.5,
        }
        for size in sizes
    ]
    fitted = {(row["measure"], row["over"]): row["exponent"] for row in exponents(results)}
    assert fitted == {
        ("epoch_s", "interactions"): pytest.approx(1),
        ("epoch_s", SCORES): pytest.approx(1 / 1.5),
        ("evaluation_s", "pairs"): pytest.approx(1),
        ("peak_mb", "interactions"): pytest.approx(0.5),
    }
    of_graphs = exponents([result | {"what": "LightGCN"} for result in results])
    assert SCORES not in {row["over"] for row in of_graphs}
