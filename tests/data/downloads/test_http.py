from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from recbole_hellm.data.downloads import retry as module
from recbole_hellm.data.downloads.http import DownloadError, KnownFile, download
from recbole_hellm.data.downloads.retry import RetryPolicy
from recbole_hellm.errors import DataError
from recbole_hellm.progress import bars

CONTENT = gzip.compress(np.random.default_rng(0).bytes(300_000), mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = RetryPolicy(attempts=4, first_wait=0.001, longest_wait=0.004, timeout=2.0)

Handler = http.server.BaseHTTPRequestHandler
Reply = Callable[[Handler], None]


class Server:
    """Answers request after request by the next reply of `script`, then by the last of them."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.seen: list[dict[str, str]] = []
        outer = self

        class Scripted(Handler):
            def do_GET(self) -> None:
                outer.seen.append({key.lower(): value for key, value in self.headers.items()})
                reply = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                reply(self)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def url(self, name: str = "file.gz") -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{name}"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for headers in self.seen]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    started = Server()
    yield started
    started.close()


def send(
    content: bytes = CONTENT,
    stop: int | None = None,
    ranges: bool = True,
    tag: str | None = '"v1"',
    changed: str | None = None,
    length: bool = True,
) -> Reply:
    """A server of `content` that hangs up after `stop` bytes of a body."""

    def reply(handler: Handler) -> None:
        wanted = handler.headers.get("Range")
        fits = handler.headers.get("If-Range") in (tag, changed)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and ranges and fits else 0
        if first >= len(content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.end_headers()
            return
        handler.send_response(206 if first else 200)
        if first:
            span = f"bytes {first}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", span)
        if length:
            handler.send_header("Content-Length", str(len(content) - first))
        if tag:
            handler.send_header("ETag", tag)
        if changed:
            handler.send_header("Last-Modified", changed)
        handler.end_headers()
        body = content[first:]
        handler.wfile.write(body if stop is None else body[:stop])

    return reply


def status(code: int, **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(code)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(b"<html>no</html>")

    return reply


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def fetch(server: Server, folder: Path, known: KnownFile | None = None) -> Path:
    return download([server.url()], folder / "file.gz", known, progress=False, retry_policy=QUICK)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file(tmp_path: Path, server: Server) -> None:
    server.script = [send()]
    path = fetch(server, tmp_path / "new", KnownFile(len(CONTENT), SHA256.upper()))
    assert path.read_bytes() == CONTENT
    assert left(tmp_path / "new") == ["file.gz"]
    assert server.ranges == [None]
    assert server.seen[0]["accept-encoding"] == "identity"


def test_a_dropped_connection_is_gone_on_with(tmp_path: Path, server: Server) -> None:
    server.script = [send(stop=100_000), send(stop=50_000), send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.seen[1]["if-range"] == '"v1"'
    assert left(tmp_path) == ["file.gz"]


def test_a_date_is_a_validator_and_a_weak_tag_is_none(tmp_path: Path, server: Server) -> None:
    date = "Wed, 01 Jan 2014 00:00:00 GMT"
    server.script = [send(stop=10, tag=None, changed=date), send(tag=None, changed=date)]
    fetch(server, tmp_path)
    assert server.seen[1]["if-range"] == date
    (tmp_path / "file.gz").unlink()
    server.seen.clear()
    server.script = [send(stop=10, tag='W/"v1"', changed=date), send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_later_call_goes_on(tmp_path: Path, server: Server) -> None:
    server.script = [send(stop=20_000), status(503)]
    with pytest.raises(DownloadError, match=r"has trouble \(HTTP 503\), 4 times"):
        fetch(server, tmp_path)
    assert left(tmp_path) == ["file.gz.part", "file.gz.part.json"]
    assert (tmp_path / "file.gz.part").read_bytes() == CONTENT[:20_000]
    server.seen.clear()
    server.script = [send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=20000-"]


def test_a_complete_part_needs_no_byte_more(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT)
    note = {"url": server.url(), "validator": '"v1"'}
    (tmp_path / "file.gz.part.json").write_text(json.dumps(note))
    server.script = [send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]
    assert left(tmp_path) == ["file.gz"]


@pytest.mark.parametrize("longer", [0, 7])
def test_a_part_of_another_version_is_started_anew(
    tmp_path: Path, server: Server, longer: int
) -> None:
    # Either the server compares the tag and sends all, or it says that there is no such range.
    old = b"x" * (len(CONTENT) + longer if longer else 500)
    (tmp_path / "file.gz.part").write_bytes(old)
    tag = '"v1"' if longer else '"v0"'
    note = {"url": server.url(), "validator": tag}
    (tmp_path / "file.gz.part.json").write_text(json.dumps(note))
    server.script = [send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(old)}-", None][: 2 if longer else 1]


@pytest.mark.parametrize("note", ["{", "[]", '{"url": "http://other", "validator": "x"}', "{}"])
def test_a_part_of_unknown_origin_is_started_anew(
    tmp_path: Path, server: Server, note: str
) -> None:
    (tmp_path / "file.gz.part").write_bytes(b"x" * 500)
    (tmp_path / "file.gz.part.json").write_text(note)
    server.script = [send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_server_that_ignores_ranges(tmp_path: Path, server: Server) -> None:
    server.script = [send(stop=100_000), send(ranges=False, stop=5_000), send(ranges=False)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=5000-"]


def test_a_server_that_sends_another_part(tmp_path: Path, server: Server) -> None:
    wrong = status(206, Content_Range=f"bytes 7-9/{len(CONTENT)}")
    server.script = [send(stop=1_000), wrong, send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-"]
    server.script = [wrong]
    (tmp_path / "file.gz").unlink()
    with pytest.raises(DownloadError, match="the server sent the wrong part"):
        fetch(server, tmp_path)


def test_a_server_that_sends_less_than_the_rest(tmp_path: Path, server: Server) -> None:
    def some(handler: Handler) -> None:
        first = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{first + 499}/{len(CONTENT)}")
        handler.send_header("Content-Length", "500")
        handler.send_header("ETag", '"v1"')
        handler.end_headers()
        handler.wfile.write(CONTENT[first : first + 500])

    server.script = [send(stop=1_000), some, some, send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-", "bytes=2000-"]


def test_a_part_longer_than_the_file_is_no_file(tmp_path: Path, server: Server) -> None:
    (tmp_path / "plain.part").write_bytes(CONTENT + b"x")
    note = {"url": server.url(), "validator": '"v1"'}
    (tmp_path / "plain.part.json").write_text(json.dumps(note))
    server.script = [send()]
    download([server.url()], tmp_path / "plain", progress=False, retry_policy=QUICK)
    assert (tmp_path / "plain").read_bytes() == CONTENT


def test_truncation_without_a_length_shows_in_gzip(tmp_path: Path, server: Server) -> None:
    server.script = [send(stop=100_000, length=False), send(length=False)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, None]
    server.script = [send(stop=100_000, length=False)]
    (tmp_path / "file.gz").unlink()
    with pytest.raises(DownloadError, match=r"not a complete gzip file \(.*\), 2 times"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


def test_a_page_in_place_of_the_file(tmp_path: Path, server: Server) -> None:
    server.script = [status(200)]
    with pytest.raises(DownloadError, match="not a complete gzip file"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


def test_a_wrong_checksum(tmp_path: Path, server: Server) -> None:
    other = gzip.compress(b"something else")
    server.script = [send(other), send()]
    assert fetch(server, tmp_path, KnownFile(sha256=SHA256)).read_bytes() == CONTENT
    server.seen.clear()
    server.script = [send(other)]
    (tmp_path / "file.gz").write_bytes(b"kept")
    with pytest.raises(DownloadError, match=r"the wrong SHA-256, 2 times"):
        fetch(server, tmp_path, KnownFile(sha256=SHA256))
    assert left(tmp_path) == ["file.gz"]
    assert (tmp_path / "file.gz").read_bytes() == b"kept"


def test_a_wrong_size(tmp_path: Path, server: Server) -> None:
    server.script = [send()]
    with pytest.raises(DownloadError, match=r"offers [\d,]+ bytes where 7 are expected"):
        fetch(server, tmp_path, KnownFile(bytes=7))
    assert len(server.seen) == 1
    server.script = [send(length=False)]
    with pytest.raises(DownloadError, match=r"bytes where 7 are expected"):
        fetch(server, tmp_path, KnownFile(bytes=7))


def test_trouble_passes_and_absence_does_not(tmp_path: Path, server: Server) -> None:
    server.script = [status(500), status(429), hang_up, send()]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.seen) == 4
    for code, reason in ((404, "is not there"), (410, "is not there"), (403, "refuses it")):
        server.seen.clear()
        server.script = [status(code), send()]
        (tmp_path / "file.gz").unlink(missing_ok=True)
        with pytest.raises(DownloadError, match=rf"{reason} \(HTTP {code}\)\)\."):
            fetch(server, tmp_path)
        assert len(server.seen) == 1


def test_attempts_are_bounded(tmp_path: Path, server: Server) -> None:
    server.script = [hang_up]
    with pytest.raises(DownloadError, match=r"no connection \(.*\), 4 times"):
        fetch(server, tmp_path)
    assert len(server.seen) == 4
    server.seen.clear()
    server.script = [send(stop=10, ranges=False)]
    with pytest.raises(DownloadError, match=r"the connection broke \(.*\), 4 times"):
        fetch(server, tmp_path)
    assert len(server.seen) == 4


def test_a_silent_server_is_given_up(tmp_path: Path, server: Server) -> None:
    stop = threading.Event()
    server.script = [lambda _: (stop.wait(5), None)[1]]
    retry_policy = RetryPolicy(attempts=2, first_wait=0.001, timeout=0.05)
    began = time.perf_counter()
    with pytest.raises(DownloadError, match="2 times"):
        download([server.url()], tmp_path / "f", progress=False, retry_policy=retry_policy)
    stop.set()
    assert time.perf_counter() - began < 3


def test_the_next_address_is_tried(tmp_path: Path, server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/file.gz"
    server.script = [status(404), send()]
    urls = [closed, server.url("a/file.gz"), server.url("b/file.gz")]
    path = download(urls, tmp_path / "file.gz", progress=False, retry_policy=QUICK)
    assert path.read_bytes() == CONTENT
    server.script = [status(404)]
    with pytest.raises(DownloadError) as caught:
        download([*urls[:2], "ftp://x/y"], tmp_path / "file.gz", progress=False, retry_policy=QUICK)
    server.script = [status(302, Location="http://[bad")]
    with pytest.raises(DownloadError, match=r": the address is malformed\)\."):
        download(urls[1:2], tmp_path / "file.gz", progress=False, retry_policy=QUICK)
    address = closed.removesuffix("/file.gz")
    for part in (f"{address}: no connection (", "refused), 2 times", "(HTTP 404)", "not an http"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == CONTENT


def test_a_servers_wish_is_waited_for(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    server.script = [status(503, Retry_After="3"), status(503, Retry_After="soon"), send()]
    retry_policy = RetryPolicy(attempts=4, first_wait=1.0, longest_wait=10.0)
    download([server.url()], tmp_path / "file.gz", progress=False, retry_policy=retry_policy)
    assert slept[0] == 3.0
    assert 1.0 <= slept[1] <= 2.0


def test_progress_shows_bytes_rate_and_time(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = [send()]
    with bars(True):
        download([server.url()], tmp_path / "file.gz", retry_policy=QUICK)
    shown = capsys.readouterr().err
    assert "file.gz: 100%" in shown
    assert "293k/293k [" in shown
    assert "B/s]" in shown


def test_a_folder_that_cannot_be_written(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_text("")
    server.script = [send()]
    with pytest.raises(DataError, match=r"cannot be written \(.*\); make room or name another"):
        fetch(server, tmp_path / "file")
