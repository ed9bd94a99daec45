from __future__ import annotations

import pytest

from recbole_hellm.reporting import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0426, ".0426"), (1.0, "1.0000"), (0.0, ".0000"), (None, "–"), (0.99996, "1.0000")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert numbers.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.001, "+.0010"), (-0.02, "−.0200"), (0.0, ".0000"), (-0.00001, ".0000"), (None, "–")],
)
def test_signed_numbers(value: float | None, text: str) -> None:
    assert numbers.signed(value) == text


def test_what_is_no_number_is_noted() -> None:
    nan = float("nan")
    assert (numbers.number(nan), numbers.signed(nan)) == ("nan", "nan")
    assert numbers.undefined([0.1, 0.2]) == []
    assert numbers.undefined([0.1, nan]) == ["nan: a run has no number for this metric."]


def test_p_values() -> None:
    assert [numbers.p_value(p) for p in (0.0004, 0.049, 1.0)] == ["<.001", ".049", "1.000"]
    # What is significant does not look as if it were not.
    assert [numbers.p_value(p) for p in (0.0499, 0.0501)] == [".04990", ".050"]
