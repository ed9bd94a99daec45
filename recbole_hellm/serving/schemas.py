"""What goes in and comes out of the endpoints; OpenAPI's schema follows from it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recbole_hellm.serving.limits import LONGEST_HISTORY, LONGEST_TOKEN, MOST_ITEMS

Token = Annotated[str, Field(min_length=1, max_length=LONGEST_TOKEN)]
ONE_OF_TWO = "Give either user or history, the tokens of at least one item."


class Question(BaseModel):
    """For whom to recommend how many items: for a known user, or for a history."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"history": ["I0719", "I1267"], "topk": 5}]},
    )

    user: Token | None = Field(None, description="Token of a user of the dataset.")
    history: list[Token] | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_HISTORY,
        description="Item tokens of a user the models have not seen, oldest first.",
    )
    topk: int = Field(10, ge=1, le=MOST_ITEMS, description="Items of each run.")
    exclude_seen: bool = Field(True, description="Leave out items of the history.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Question:
        if (self.user is None) == (self.history is None):
            raise ValueError(ONE_OF_TWO)
        return self


class Item(BaseModel):
    """An item of the dataset."""

    item: str = Field(description="Its token.")
    title: str = Field(description="'' where the dataset has none.")
    categories: str
    picture: str | None = Field(description="Path of its picture on this server, if it has one.")


class Reason(BaseModel):
    """An item of the history near a recommended one."""

    item: str
    title: str
    similarity: float = Field(description="Cosine of both items' vectors in the model.")


class Recommendation(Item):
    """A recommended item."""

    rank: int = Field(description="From 1.")
    score: float = Field(description="Of the model; not comparable between models.")
    because: list[Reason] = Field(description="The nearest items of the history, nearest first.")


class RunInfo(BaseModel):
    """A run that is served."""

    run: str
    model: str
    directory: str
    reads_histories: bool = Field(description="Whether it can score a composed history.")
    explains: bool = Field(description="Whether it has item vectors, by which items are near.")


class RunAnswer(BaseModel):
    """What one run recommends."""

    run: str
    recommendations: list[Recommendation]
    note: str | None = Field(description="Why there are none, in one sentence.")
    explains: bool = Field(description="Whether it has item vectors, by which items are near.")


class Answer(BaseModel):
    """What every run recommends."""

    user: str | None
    history: list[Item] = Field(description="Oldest first; of a longer one, the last items.")
    history_length: int
    runs: list[RunAnswer]


class FoundUser(BaseModel):
    """A user that a search gives."""

    user: str


class Problem(BaseModel):
    """Why a request is refused."""

    detail: str = Field(description="One sentence.")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The Host header names another site."},
    404: {"model": Problem, "description": "There is no such user, item or page."},
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": Problem, "description": "A value is missing or out of its range."},
    503: {"model": Problem, "description": "Too many requests are waiting."},
}
