"""docs/serving.md: its commands, word for word but for the port."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import requests
from support.examples import DOCS, commands

from recbole_hellm.cli.main import main, parse_options
from recbole_hellm.serving import limits
from recbole_hellm.serving.settings import ServeSettings


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    from recbole_hellm.serving.server import prepare_server

    monkeypatch.chdir(tmp_path)
    run, serve, *asked = commands("serving.md")
    assert (run[:2], serve[:2]) == (["recbole-hellm", "run"], ["recbole-hellm", "serve"])
    assert main([*run[1:], "--show_progress=False", "--threads=1"]) == 0
    options = parse_options(serve[2:], "serve") | {"port": 0}
    server = prepare_server(options["run"], ServeSettings.from_config(options))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        answers = []
        for words in asked:
            assert words[:2] == ["curl", "-s"]
            address = server.url + words[2].removeprefix("http://127.0.0.1:8000/")
            if "-d" in words:
                headers = dict([words[words.index("-H") + 1].split(": ")])
                data = words[words.index("-d") + 1]
                response = requests.post(address, data=data, headers=headers, timeout=60)
            else:
                response = requests.get(address, timeout=60)
            assert response.status_code == 200, response.text
            answers.append(response.json())
    finally:
        server.server.should_exit = True
        thread.join(20)
    recommended, items, users, runs = answers
    sequential, general = recommended["runs"]
    assert len(sequential["recommendations"]) == 3 and general["note"]
    keys = ("rank", "item", "title", "categories", "picture", "score", "because")
    assert {*sequential["recommendations"][0]} == {*keys}
    assert len(items) == 5 and all("Gloves" in item["title"] for item in items)
    assert users and [run["run"] for run in runs] == ["SASRec", "LightGCN"]


def test_the_limits_are_those_of_the_code() -> None:
    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    text = " ".join(page.split())
    assert (
        f"A history has at most {limits.LONGEST_HISTORY} items, a list {limits.MOST_ITEMS}, a "
        f"search {limits.LONGEST_QUERY} characters and {limits.MOST_FOUND} results" in text
    )
    assert f"larger than {limits.LARGEST_BODY >> 10} KiB" in text
    assert f"longer than {limits.LONGEST_ADDRESS >> 10} KiB" in text
    assert f"{limits.MOST_WAITING} requests are waiting" in text
    assert limits.REASONS == 3 and "up to three items" in text
