"""Requests to a server of recommendations."""

from __future__ import annotations

import json
from typing import Any

import requests


def ask(url: str, body: Any) -> requests.Response:
    """The response to a question; a text is sent as it is."""
    data = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json"}
    return requests.post(f"{url}api/recommendations", data=data, headers=headers, timeout=60)
