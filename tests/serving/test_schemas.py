from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from recbole_hellm.serving.limits import LONGEST_HISTORY, LONGEST_TOKEN
from recbole_hellm.serving.schemas import ONE_OF_TWO, Question


@pytest.mark.parametrize("asked", [{}, {"user": "u", "history": ["i"]}])
def test_one_of_user_and_history(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=ONE_OF_TWO):
        Question.model_validate(asked)


@pytest.mark.parametrize(
    "changes",
    [
        {"topk": 0},
        {"topk": 101},
        {"topk": True},
        {"topk": "5"},
        {"exclude_seen": 1},
        {"further": 1},
        {"user": ""},
        {"user": "u" * (LONGEST_TOKEN + 1)},
        {"user": None, "history": []},
        {"user": None, "history": ["i"] * (LONGEST_HISTORY + 1)},
        {"user": None, "history": [5]},
    ],
)
def test_values_out_of_range(changes: dict[str, Any]) -> None:
    assert Question.model_validate({"user": "u", "topk": 100}).topk == 100
    with pytest.raises(ValidationError):
        Question.model_validate({"user": "u"} | changes)


def test_the_longest_history_is_allowed() -> None:
    asked = Question.model_validate({"history": ["i" * LONGEST_TOKEN] * LONGEST_HISTORY})
    assert asked.topk == 10 and asked.exclude_seen
