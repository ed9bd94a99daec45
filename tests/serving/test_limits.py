from __future__ import annotations

from recbole_hellm.serving import limits


def test_the_longest_history_of_usual_tokens_fits_an_address_and_a_body() -> None:
    token = "B00012345X"  # noqa: S105
    assert len(f"&item={token}") * limits.LONGEST_HISTORY < limits.LONGEST_ADDRESS
    assert (len(token) + 4) * limits.LONGEST_HISTORY < limits.LARGEST_BODY


def test_one_token_of_the_greatest_length_fits() -> None:
    assert 4 * limits.LONGEST_TOKEN < limits.LONGEST_ADDRESS
