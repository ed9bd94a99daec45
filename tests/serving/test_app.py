"""Requests to a real server."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from support.served import ask

from recbole_hellm.serving.limits import LARGEST_BODY, LONGEST_HISTORY, LONGEST_QUERY
from recbole_hellm.serving.schemas import Answer


def raw(url: str, path: str, host: str | None = None) -> tuple[int, bytes, str]:
    """Status, body and type of a path that is sent as it stands."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or parts.netloc)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, response.read(), str(response.getheader("content-type"))
    connection.close()
    return found


def test_recommendations_as_json(url: str) -> None:
    response = ask(url, {"history": ["i01", "i04"], "topk": 3})
    assert response.status_code == 200
    answer = Answer.model_validate(response.json())
    assert [len(of_run.recommendations) for of_run in answer.runs] == [3, 0, 0]
    assert [item.title for item in answer.history] == ["Lamp No. 1", "Lamp No. 4"]
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"user": "nobody"}, 404, "no user 'nobody'"),
        ({"history": ["i01", "nix"]}, 404, "no item 'nix'"),
        ({}, 422, "Give either user or history"),
        ({"user": "u39", "topk": 101}, 422, "topk: input should be less than or equal to 100."),
        ({"history": ["i01"] * (LONGEST_HISTORY + 1)}, 422, "history: list should have at most"),
        ({"user": "u39", "more": 1}, 422, "more: extra inputs are not permitted."),
        ("{", 422, "The body of the request is no JSON"),
        ("x" * (LARGEST_BODY + 1), 413, "The request is larger than"),
    ],
)
def test_mistakes_are_told_in_one_sentence(url: str, body: Any, status: int, told: str) -> None:
    response = ask(url, body)
    detail = response.json()["detail"]
    assert response.status_code == status and told in detail
    assert detail.endswith(".") and "\n" not in detail


def test_a_body_without_length_is_limited_too(url: str) -> None:
    chunks = (b" " * 4096 for _ in range(LARGEST_BODY // 4096 + 1))
    response = requests.post(f"{url}api/recommendations", data=chunks, timeout=20)
    assert response.status_code == 413 and "larger" in response.json()["detail"]


def test_search(url: str) -> None:
    items = requests.get(f"{url}api/items", {"q": "lamp 2", "limit": 4}, timeout=20).json()
    assert [item["item"] for item in items] == ["i02", "i12", "i20", "i21"] or len(items) == 4
    assert all("Lamp" in item["title"] and "2" in item["title"] for item in items)
    users = requests.get(f"{url}api/users", {"q": "U3", "limit": 50}, timeout=20).json()
    assert sorted(user["user"] for user in users) == [f"u3{n}" for n in range(10)]
    for query in ({"q": "x" * (LONGEST_QUERY + 1)}, {"limit": 51}, {"limit": 0}, {"limit": "x"}):
        response = requests.get(f"{url}api/items", query, timeout=20)
        assert response.status_code == 422 and response.json()["detail"].endswith(".")


def test_the_schema_describes_every_endpoint(url: str) -> None:
    schema = requests.get(f"{url}openapi.json", timeout=20).json()
    assert {*schema["paths"]} == {
        "/api/runs",
        "/api/users",
        "/api/items",
        "/api/recommendations",
        "/pictures/{token}",
    }
    question = schema["components"]["schemas"]["Question"]["properties"]
    assert question["topk"]["maximum"] == 100
    assert question["history"]["anyOf"][0]["maxItems"] == LONGEST_HISTORY
    described = schema["paths"]["/api/recommendations"]["post"]["responses"]
    assert {*described} == {"200", "400", "404", "413", "422", "503"}
    assert described["404"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
    runs = requests.get(f"{url}api/runs", timeout=20).json()
    told = {run["run"]: (run["reads_histories"], run["explains"]) for run in runs}
    assert told == {"SASRec": (True, True), "LightGCN": (False, True), "Pop": (False, False)}
    for page in ("docs", "redoc"):  # they would load scripts from elsewhere
        assert requests.get(f"{url}{page}", timeout=20).status_code == 404


def test_the_page(url: str) -> None:
    response = requests.get(url, {"user": "u39", "topk": 4}, timeout=20)
    assert response.status_code == 200
    assert "script-src 'self'" in response.headers["content-security-policy"]
    assert response.text.count('<li class="card">') >= 12
    for name, kind in (("page.css", "text/css"), ("page.js", "javascript"), ("icon.svg", "svg")):
        file = requests.get(f"{url}static/{name}", timeout=20)
        assert file.status_code == 200 and kind in file.headers["content-type"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?user=nobody", 404),
        ("?item=nix", 404),
        ("?topk=0", 422),
        ("?user=u39&item=i01", 422),
        ("?q=" + "x" * (LONGEST_QUERY + 1), 422),
        ("?" + "item=i01&" * (LONGEST_HISTORY + 1), 422),
        ("?q=" + "x" * 40_000, 414),
    ],
)
def test_mistakes_on_the_page(url: str, query: str, status: int) -> None:
    response = requests.get(url + query, timeout=20)
    assert response.status_code == status
    assert status == 414 or 'role="alert"' in response.text


def test_pictures_come_from_the_folder_of_pictures_alone(url: str) -> None:
    status, content, kind = raw(url, "/pictures/i01")
    assert (status, content[:4], kind) == (200, b"\x89PNG", "image/png")
    paths = [
        "/pictures/i02",  # a link out of the folder
        "/pictures/i04",
        "/pictures/../secret.png",
        "/pictures/..%2fsecret",
        "/pictures/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/pictures/%2fetc%2fpasswd",
        "/pictures/i01.png",
        "/pictures/i01%00",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/templates/page.html",
    ]
    for path in paths:
        status, content, kind = raw(url, path)
        assert (status, kind) == (404, "application/json"), path
        assert json.loads(content)["detail"].endswith("."), path


def test_another_sites_name_is_refused(url: str) -> None:
    for path in ("/", "/api/runs", "/static/page.js", "/pictures/i01"):
        assert raw(url, path, "evil.example")[0] == 400
        assert raw(url, path, f"localhost:{urlsplit(url).port}")[0] == 200
