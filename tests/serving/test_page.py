from __future__ import annotations

import asyncio
import itertools
import re
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

import pytest

from recbole_hellm.serving.page import Page, View, listed
from recbole_hellm.serving.service import Service


class Elements(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def shown(service: Service, view: View, words: str = "") -> Elements:
    answer = asyncio.run(service.answer(view.question)) if view.question else None
    found = [service.item(token) for token in service.items.find(words, 9)] if words else None
    return Elements(Page(service).render(view, answer, found))


def test_listed() -> None:
    assert [listed(list(names)) for names in ("", "A", "AB", "ABC")] == [
        "",
        "A",
        "A and B",
        "A, B and C",
    ]


def test_addresses_keep_what_is_chosen() -> None:
    view = View(items=("a&b", "c d"), topk=5, seen=True)
    parts = parse_qs(urlsplit(view.address(items=(*view.items, "é"))).query)
    assert parts == {"item": ["a&b", "c d", "é"], "topk": ["5"], "seen": ["1"]}
    assert View().question is None
    question = view.question
    assert question is not None and question.history == ["a&b", "c d"]
    assert not question.exclude_seen and question.topk == 5


def test_what_is_shown_of_a_user(service: Service) -> None:
    page = shown(service, View(user="u39", topk=6))
    for name in ("SASRec", "LightGCN", "Pop"):
        assert f" {name} " in page.text
    assert "Pop has no vectors of items, so no near ones are named." in page.text
    assert page.text.count(" Near ") >= 6
    assert page.text.count(" Home > Living ") >= 18
    assert {image["src"] for image in page.named("img")} <= {"/pictures/i01"}


def test_what_is_shown_of_a_history(service: Service) -> None:
    page = shown(service, View(items=("i03", "i01"), search="cafe"), "cafe")
    assert "LightGCN scores only the users that it was trained on" in page.text
    assert "Your history, oldest first" in page.text and "1 item for “cafe”" in page.text
    links = [str(link["href"]) for link in page.named("a") if "button" in str(link.get("class"))]
    asked = [parse_qs(urlsplit(link).query)["item"] for link in links]
    assert asked == [["i03", "i01", "i05"], ["i01"], ["i03"]]  # one to add, two to remove


def test_texts_are_escaped_and_nothing_is_inline(service: Service) -> None:
    page = shown(service, View(items=("i03",)), "kettle")
    assert "</script><script>alert('&')</script> kettle" in page.text
    (script,) = page.named("script")
    assert script == {"src": "/static/page.js", "defer": None}
    assert not page.named("style")
    assert not [a for _, a in page.tags if "style" in a or any(k.startswith("on") for k in a)]
    places = [a.get("src") or a.get("href") for _, a in page.tags if "src" in a or "href" in a]
    assert all(re.match(r"[/#](?!/)", str(place)) for place in places), places


def test_every_field_has_a_label_and_every_heading_its_level(service: Service) -> None:
    page = shown(service, View(user="u39"))
    labelled = {label["for"] for label in page.named("label")}
    fields = [f for f in page.named("input") + page.named("select") if f.get("type") != "hidden"]
    assert fields and all(field["id"] in labelled for field in fields)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len({*ids})
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_a_problem_is_shown_as_an_alert(service: Service) -> None:
    text = Page(service).render(View(), problem="No <b>such</b> user.")
    assert '<p class="problem" role="alert">No &lt;b&gt;such&lt;/b&gt; user.</p>' in text


@pytest.mark.parametrize("only", ["LightGCN", "Pop"])
def test_general_models_alone_say_that_no_history_can_be_composed(
    service: Service, only: str
) -> None:
    alone = Service([run for run in service.runs if run.name == only])
    page = shown(alone, View(user="u39"))
    assert f"{only} scores only the users of the training data" in page.text
    assert not [field for field in page.named("input") if field.get("id") == "search"]
