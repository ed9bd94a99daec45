from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from support.served import ask

from recbole_hellm.errors import ConfigError
from recbole_hellm.runs.results import RunResult
from recbole_hellm.serving.server import bind, prepare_server, url_of
from recbole_hellm.serving.service import ServedRun
from recbole_hellm.serving.settings import ServeSettings

CLIENTS = 50


def questions() -> list[dict[str, Any]]:
    """A different one for each client: users, histories, lengths of lists."""
    users = [{"user": f"u{n:02d}", "topk": 1 + n % 20} for n in range(25)]
    lists = [[f"i{(n + 7 * step) % 30:02d}" for step in range(1 + n % 9)] for n in range(25)]
    histories = [
        {"history": items, "topk": 1 + n % 20, "exclude_seen": bool(n % 2)}
        for n, items in enumerate(lists)
    ]
    return users + histories


def test_fifty_clients_get_what_one_after_the_other_gets(url: str) -> None:
    asked = questions()
    alone = [ask(url, one).json() for one in asked]
    assert len({str(answer) for answer in alone}) == CLIENTS
    ready = threading.Barrier(CLIENTS)

    def client(one: dict[str, Any]) -> tuple[Any, float]:
        ready.wait(30)
        begun = time.perf_counter()
        response = ask(url, one)
        assert response.status_code == 200
        return response.json(), time.perf_counter() - begun

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(pool.map(client, asked))
    taken = time.perf_counter() - begun
    assert [answer for answer, _ in outcomes] == alone
    # Nobody waits for more than all of them take.
    assert max(seconds for _, seconds in outcomes) <= taken < 60


def test_other_requests_are_answered_while_a_model_works(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    own = ServedRun.answer

    def slow(self: ServedRun, question: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return own(self, question)

    monkeypatch.setattr(ServedRun, "answer", slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, url, {"user": "u39"})
        assert begun.wait(30)
        assert requests.get(f"{url}api/items", {"q": "lamp"}, timeout=20).status_code == 200
        assert requests.get(url, timeout=20).status_code == 200
        assert not waiting.done()
        go.set()
        assert waiting.result(30).status_code == 200


def test_an_address_that_is_taken_is_told() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert url_of(ServeSettings(), taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ConfigError) as error:
            bind("127.0.0.1", port)
    assert str(error.value).startswith(f"127.0.0.1:{port} cannot be served (")
    assert str(error.value).endswith(
        "name another --host, or another --port, of which 0 is any free one."
    )
    with pytest.raises(ConfigError, match="cannot be served"):
        bind("no such host", 0)


def test_an_address_of_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        bound = bind("::1", 0)
    except ConfigError:
        pytest.skip("this machine has no address ::1")
    with bound:
        assert url_of(ServeSettings(host="::1"), bound).startswith("http://[::1]:")


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ConfigError) as error:
        prepare_server("runs", ServeSettings())
    assert str(error.value).startswith("`serve` needs FastAPI and uvicorn (")
    assert str(error.value).endswith("); run `pip install 'recbole-hellm[serve]'`.")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for others")
def test_it_ends_in_order_when_asked_to(shown_runs: dict[str, RunResult]) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    path = shown_runs["Pop"].path
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "recbole_hellm", "serve", f"--run={path}", "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Serving at http://127.0.0.1:"), line
    address = line.split()[2]
    assert requests.get(f"{address}api/runs", timeout=60).json()[0]["run"] == "Pop"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "Ended.\n"), err
    assert "Traceback" not in err
