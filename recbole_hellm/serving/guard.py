"""What every request passes: whom it asks for, how long it is, and what browsers may do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recbole_hellm.serving.limits import LARGEST_BODY, LONGEST_ADDRESS

_HOST = re.compile(r"\[([0-9a-fA-F:.]+)\](?::\d+)?|([^:\[\]/\s@]+)(?::\d+)?")
HEADERS = {
    # Nothing from elsewhere, no scripts or styles but the page's own files.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers of every response. None of them lets another site read it (CORS)."""


class Guard:
    """Refuses requests for other sites and those that are too long, and adds headers.

    Parameters
    ----------
    app : ASGI application
    allows : callable
        Tells whether a request may ask for a host of a name or address.
    """

    def __init__(self, app: ASGIApp, allows: Callable[[str], bool]) -> None:
        self.app, self.allows = app, allows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused:
            await _refuse(send, *refused)
            return
        await self.app(scope, _counted(receive), _with_headers(send))

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            return 400, "The request names no host, or one that is no name."
        name = found[1] or found[2]
        if not self.allows(name):
            return 400, (
                f"'{name}' is no name of this server; start it with --allowed_hosts={name} if it "
                "should be."
            )
        if len(scope.get("query_string", b"")) > LONGEST_ADDRESS:
            return 414, f"The address is longer than {LONGEST_ADDRESS >> 10} KiB; ask for less."
        lengths = [value for name, value in headers if name == b"content-length"]
        if any(not value.isdigit() or int(value) > LARGEST_BODY for value in lengths):
            return 413, TOO_LARGE
        return None


TOO_LARGE = f"The request is larger than {LARGEST_BODY >> 10} KiB; send fewer items."


def _counted(receive: Receive) -> Receive:
    """Stop a body that is too long, also where its length is not told before."""
    read = 0

    async def counting() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > LARGEST_BODY:
            raise HTTPException(413, TOO_LARGE)
        return message

    return counting


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            kept = [(name, value) for name, value in more if name not in own]
            message = {**message, "headers": [*message["headers"], *kept]}
        await send(message)

    return sending


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers: list[tuple[bytes, Any]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    sending = _with_headers(send)
    await sending({"type": "http.response.start", "status": status, "headers": headers})
    await sending({"type": "http.response.body", "body": body})
