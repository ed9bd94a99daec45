"""The endpoints: the page, its files and pictures, and JSON with a schema."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from recbole_hellm import __version__
from recbole_hellm.errors import DataError
from recbole_hellm.serving.guard import Guard
from recbole_hellm.serving.limits import (
    LARGEST_PICTURE,
    LONGEST_HISTORY,
    LONGEST_QUERY,
    LONGEST_TOKEN,
    MOST_FOUND,
    MOST_ITEMS,
)
from recbole_hellm.serving.page import Page, View
from recbole_hellm.serving.schemas import (
    PROBLEMS,
    Answer,
    FoundUser,
    Item,
    Question,
    RunInfo,
)
from recbole_hellm.serving.service import OverloadError, Service, UnknownTokenError
from recbole_hellm.serving.settings import ServeSettings
from recbole_hellm.storage.text_files import read_bytes

STATIC = Path(__file__).parent / "static"

TokenOrNone = Annotated[str, Query(max_length=LONGEST_TOKEN)]
Words = Annotated[str, Query(max_length=LONGEST_QUERY, description="Words to search for.")]
Found = Annotated[int, Query(ge=1, le=MOST_FOUND, description="The most that are given.")]


def create_app(service: Service, settings: ServeSettings) -> FastAPI:
    """The application that answers requests.

    Parameters
    ----------
    service : Service
    settings : ServeSettings
        Whom it answers, and the length of lists at first.
    """
    app = FastAPI(
        title="recbole-hellm serve",
        version=__version__,
        summary="Recommendations of finished runs.",
        # FastAPI's pages of documentation load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Guard, allows=settings.allows)
    page = Page(service)
    _answer_problems(app, page)
    _add_page(app, service, page, settings.topk)
    _add_endpoints(app, service)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _add_page(app: FastAPI, service: Service, page: Page, length: int) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show(
        user: TokenOrNone = "",
        item: Annotated[list[TokenOrNone], Query(max_length=LONGEST_HISTORY)] = [],  # noqa: B006
        topk: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = length,
        seen: bool = False,
        q: Words = "",
    ) -> Response:
        view = View(user.strip(), tuple(item), topk, seen, q.strip())
        if view.user and view.items:
            raise HTTPException(422, "Choose a user or a history of your own, not both.")
        question = view.question
        answer = await service.answer(question) if question else None
        found = None
        if view.search:
            found = await asyncio.to_thread(_items, service, view.search, MOST_FOUND)
        return HTMLResponse(await asyncio.to_thread(page.render, view, answer, found))


def _items(service: Service, words: str, limit: int) -> list[Item]:
    return [service.item(token) for token in service.items.find(words, limit)]


def _add_endpoints(app: FastAPI, service: Service) -> None:
    @app.get("/api/runs", responses=_problems(400))
    async def runs() -> list[RunInfo]:
        """The runs that are served."""
        return [run.info for run in service.runs]

    @app.get("/api/users", responses=_problems(400, 422))
    async def users(q: Words = "", limit: Found = 10) -> list[FoundUser]:
        """Users whose token holds some words."""
        tokens = await asyncio.to_thread(service.users.find, q, limit)
        return [FoundUser(user=token) for token in tokens]

    @app.get("/api/items", responses=_problems(400, 422))
    async def items(q: Words = "", limit: Found = 10) -> list[Item]:
        """Items whose title or token holds some words."""
        return await asyncio.to_thread(_items, service, q, limit)

    @app.post("/api/recommendations", responses=_problems(400, 404, 413, 422, 503))
    async def recommendations(question: Question) -> Answer:
        """What every run recommends to a user, or for a history."""
        return await service.answer(question)

    @app.get(
        "/pictures/{token:path}",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}}, **_problems(400, 404)},
    )
    async def picture(token: str) -> Response:
        """The picture of an item, from the dataset's folder of pictures."""
        return await asyncio.to_thread(_picture, service, token)


def _picture(service: Service, token: str) -> Response:
    picture = service.picture(token)
    if picture is None:
        raise HTTPException(404, "There is no picture of this item.")
    try:
        content = read_bytes(picture.path, DataError, limit=LARGEST_PICTURE)
    except DataError as error:
        raise HTTPException(404, "The picture of this item cannot be shown.") from error
    headers = {"cache-control": "private, max-age=600"}
    return Response(content, media_type=picture.kind, headers=headers)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: PROBLEMS[status] for status in statuses}


# Problems ----------------------------------------------------------------------------------------


def _answer_problems(app: FastAPI, page: Page) -> None:
    """Answer each problem with one sentence: on the page as a page, elsewhere as JSON."""

    def told(request: Request, status: int, sentence: str, **headers: str) -> Response:
        if request.url.path == "/":
            return HTMLResponse(page.render(View(), problem=sentence), status, headers)
        return JSONResponse({"detail": sentence}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return told(request, 422, problem_sentence(error.errors()))

    @app.exception_handler(UnknownTokenError)
    async def unknown(request: Request, error: UnknownTokenError) -> Response:
        return told(request, 404, str(error))

    @app.exception_handler(OverloadError)
    async def overloaded(request: Request, error: OverloadError) -> Response:
        return told(request, 503, str(error), **{"retry-after": "5"})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        sentence = str(error.detail)
        if sentence == "Not Found":
            sentence = "There is no such page; start at /, or see /openapi.json."
        return told(request, error.status_code, f"{sentence.rstrip('.')}.")


def problem_sentence(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors as one sentence that names the value.

    Parameters
    ----------
    errors : sequence of dict
        As pydantic lists them.
    """
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    name = f"{place[0]}[{place[1]}]" if place[1:] and place[1].isdigit() else ".".join(place)
    message = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    if first["type"] == "json_invalid":
        return "The body of the request is no JSON; send an object with user or history."
    if not name:
        return f"{message}."
    return f"{name}: {message[:1].lower()}{message[1:]}."
