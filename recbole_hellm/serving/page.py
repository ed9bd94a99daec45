"""The page: what its address asks for, and how it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from recbole_hellm import __version__
from recbole_hellm.serving.limits import (
    LONGEST_HISTORY,
    LONGEST_QUERY,
    LONGEST_TOKEN,
    MOST_ITEMS,
)
from recbole_hellm.serving.schemas import Answer, Item, Question
from recbole_hellm.serving.service import Service

EXAMPLES = 4  # users that are offered
SHOWN = 8  # items of a user's history that are shown at once


def listed(names: Sequence[str]) -> str:
    """Names as they stand in a sentence.

    Examples
    --------
    >>> listed(["A", "B", "C"]), listed(["A"])
    ('A, B and C', 'A')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


@dataclasses.dataclass(frozen=True)
class View:
    """What an address of the page asks for.

    Attributes
    ----------
    user : str
        Token of a known user, or ''.
    items : tuple of str
        Tokens of a composed history, oldest first.
    topk : int
    seen : bool
        Whether items of the history may be recommended.
    search : str
        Words that items are searched by.
    """

    user: str = ""
    items: tuple[str, ...] = ()
    topk: int = 10
    seen: bool = False
    search: str = ""

    @property
    def question(self) -> Question | None:
        """The question to the service; None on an empty page."""
        if not (self.user or self.items):
            return None
        asked = {"user": self.user} if self.user else {"history": list(self.items)}
        return Question.model_validate({**asked, "topk": self.topk, "exclude_seen": not self.seen})

    def address(self, **changes: Any) -> str:
        """The address of the page with some changes."""
        view = dataclasses.replace(self, **changes)
        pairs = [("user", view.user)] if view.user else []
        pairs += [("item", token) for token in view.items]
        pairs += [("topk", str(view.topk)), *([("seen", "1")] if view.seen else [])]
        pairs += [("q", view.search)] if view.search else []
        return f"/?{urlencode(pairs)}"


class Page:
    """Renders the page of a service.

    Parameters
    ----------
    service : Service
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        environment = Environment(
            loader=PackageLoader("recbole_hellm.serving"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["listed"] = listed
        self._template = environment.get_template("page.html")

    def render(
        self,
        view: View,
        answer: Answer | None = None,
        found: list[Item] | None = None,
        problem: str = "",
    ) -> str:
        """The page as a text.

        Parameters
        ----------
        view : View
        answer : Answer, optional
        found : list of Item, optional
            What the search gives, if there was one.
        problem : str
            Why there is no answer.
        """
        service = self.service
        own = [run.name for run in service.runs if run.recommender.reads_histories]
        return self._template.render(
            version=__version__,
            dataset=service.dataset_name,
            runs=[run.info for run in service.runs],
            readers=own,
            others=[run.name for run in service.runs if run.name not in own],
            counts={"users": len(service.user_tokens), "items": len(service.item_tokens)},
            examples=service.user_tokens[:EXAMPLES],
            view=view,
            composed=[service.item(token) for token in view.items] if not problem else [],
            answer=answer,
            found=found,
            problem=problem,
            shown=SHOWN,
            limits={
                "history": LONGEST_HISTORY,
                "topk": MOST_ITEMS,
                "query": LONGEST_QUERY,
                "token": LONGEST_TOKEN,
            },
        )
