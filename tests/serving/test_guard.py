from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from recbole_hellm.serving.guard import HEADERS, TOO_LARGE, Guard
from recbole_hellm.serving.limits import LARGEST_BODY, LONGEST_ADDRESS


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that tells the length of the body."""
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def pass_through(
    headers: list[tuple[str, str]], query: str = "", body: tuple[bytes, ...] = (b"",)
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of a request."""
    sent: list[dict[str, Any]] = []
    parts = [
        {"type": "http.request", "body": part, "more_body": n + 1 < len(body)}
        for n, part in enumerate(body)
    ]

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "query_string": query.encode(),
    }
    asyncio.run(Guard(echo, lambda name: name == "me")(scope, receive, send))  # type: ignore[arg-type]
    start, content = sent
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], told, content["body"].decode()


@pytest.mark.parametrize("host", ["me", "me:8000"])
def test_requests_for_this_server_pass_with_headers(host: str) -> None:
    status, headers, body = pass_through([("Host", host)], body=(b"ab", b"c"))
    assert (status, body) == (200, "3")
    assert headers == HEADERS
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "hosts", [[], ["evil.example"], ["me.evil"], ["me", "me"], ["me@evil"], [""], ["[::1]"], ["é"]]
)
def test_requests_for_another_host_are_refused(hosts: list[str]) -> None:
    status, headers, body = pass_through([("host", host) for host in hosts])
    assert status == 400 and headers["content-security-policy"]
    assert json.loads(body)["detail"].endswith(".")
    if hosts == ["evil.example"]:
        assert json.loads(body)["detail"] == (
            "'evil.example' is no name of this server; start it with "
            "--allowed_hosts=evil.example if it should be."
        )


def test_addresses_that_are_too_long() -> None:
    assert pass_through([("host", "me")], "q" * LONGEST_ADDRESS)[0] == 200
    assert pass_through([("host", "me")], "q" * (LONGEST_ADDRESS + 1))[0] == 414


def test_bodies_that_are_too_large_by_their_length() -> None:
    for length in (str(LARGEST_BODY + 1), "-1", "x"):
        status, _, body = pass_through([("host", "me"), ("content-length", length)])
        assert (status, json.loads(body)["detail"]) == (413, TOO_LARGE)


def test_bodies_that_turn_out_too_large() -> None:
    from starlette.exceptions import HTTPException

    half = b"x" * (LARGEST_BODY // 2)
    assert pass_through([("host", "me")], body=(half, half))[2] == str(LARGEST_BODY)
    with pytest.raises(HTTPException) as error:  # the application answers it
        pass_through([("host", "me")], body=(half, half, b"x"))
    assert error.value.status_code == 413
