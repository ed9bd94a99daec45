from __future__ import annotations

import http.server
import io
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from recbole_hellm.cli.main import main
from recbole_hellm.data.downloads import hosts, pictures
from recbole_hellm.data.downloads import images as module
from recbole_hellm.data.downloads.images import ImageCounts, ImageSettings, fetch_images
from recbole_hellm.data.downloads.retry import RetryPolicy
from recbole_hellm.data.features.item_metadata import ItemMetadata
from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.progress import bars
from recbole_hellm.storage.files import atomic_path

Handler = http.server.BaseHTTPRequestHandler
Reply = Callable[[Handler], None]
QUICK = RetryPolicy(attempts=3, first_wait=0.001, longest_wait=0.004, timeout=2.0)


def picture(kind: str = "JPEG", side: int = 32) -> bytes:
    file = io.BytesIO()
    # Seeded: of some noise, half a file ends in its header, which makes it no picture.
    noise = Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side))  # noqa: S311
    noise.save(file, kind)
    return file.getvalue()


JPEG, PNG, WEBP, GIF = (picture(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF"))
BIG_GIF = picture("GIF", 128)


class Shop:
    """A server whose answers are told by path, and the most requests it saw at once."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.default: Reply = send(JPEG)
        self.asked: Counter[str] = Counter()
        self.agents: set[str | None] = set()
        self.busy = self.most = 0
        lock, outer = threading.Lock(), self

        class Told(Handler):
            def do_GET(self) -> None:
                with lock:
                    outer.asked[self.path] += 1
                    outer.agents.add(self.headers.get("User-Agent"))
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                try:
                    outer.replies.get(self.path, outer.default)(self)
                except ConnectionError:  # the client went away
                    pass
                finally:
                    with lock:
                        outer.busy -= 1
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


def send(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Reply:
    """The body; `length` is told in place of its own, 0 for not at all."""

    def reply(handler: Handler) -> None:
        handler.send_response(status)
        if length != 0:
            handler.send_header("Content-Length", str(length or len(body)))
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def in_turn(*replies: Reply) -> Reply:
    left = list(replies)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    started = Shop()
    yield started
    started.http.shutdown()
    started.http.server_close()


def write_items(folder: Path, addresses: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    rows = ["item_id:token\timage:token", *map("\t".join, addresses.items())]
    (folder / f"{folder.name}.item").write_text("\n".join(rows) + "\n")
    return folder


def fetch(folder: Path, **settings: Any) -> ImageCounts:
    return fetch_images(folder.name, folder, ImageSettings(**settings), False, QUICK)


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "images/manifest.json").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.glob("images/*") if path.stem != "manifest"
    }


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# What comes --------------------------------------------------------------------------------------


def test_pictures_are_named_by_token_and_content(tmp_path: Path, shop: Shop) -> None:
    bodies = {"a": JPEG, "b": PNG, "c/d": WEBP, "..": BIG_GIF, "É x": JPEG}
    addresses = {token: f"{shop.url}/{number}.jpg" for number, token in enumerate(bodies)}
    for number, body in enumerate(bodies.values()):
        shop.replies[f"/{number}.jpg"] = send(body)
    folder = write_items(tmp_path / "shop", addresses)
    counts = fetch(folder)
    assert files(folder) == {
        "a.jpg": JPEG,
        "b.png": PNG,
        "c%2Fd.webp": WEBP,
        "%2E%2E.gif": BIG_GIF,
        "É x.jpg": JPEG,
    }
    assert counts == ImageCounts(5, 0, {}, folder / "images/manifest.json")
    written = manifest(folder)
    assert written.pop("checksum")
    assert written == {
        "format_version": 1,
        "items": 5,
        "pictures": 5,
        "not_tried": 0,
        "reasons": {},
        "missing": {},
    }
    metadata = ItemMetadata.read(folder, "shop")
    for token, body in bodies.items():
        found = metadata.picture(token)
        assert found is not None and found.path.read_bytes() == body
    assert shop.agents == {"recbole-hellm"}


BAD: dict[str, tuple[Reply, str, int]] = {  # the reason, and how often it is asked for
    "404": (send(b"", 404), "HTTP 404", 1),
    "410": (send(b"", 410), "HTTP 410", 1),
    "403": (send(b"", 403), "HTTP 403", 1),
    "500": (send(b"", 500), "HTTP 500", 3),
    "429": (send(b"", 429, Retry_After="0"), "HTTP 429", 3),
    "html": (send(b"<html>Sorry</html>", Content_Type="image/jpeg"), "not a picture", 2),
    "empty": (send(b"", length=0), "not a picture", 2),
    "bmp": (send(picture("BMP")), "not a picture", 2),
    "spacer": (send(picture("GIF", 1)), "placeholder", 1),
    "pixel": (send(picture("PNG", 1)), "placeholder", 1),
    "no-image": (send(GIF[:4000] + bytes(50)), "placeholder", 1),
    "dropped": (hang_up, "broken connection", 3),
    "short": (send(JPEG[:100], length=len(JPEG)), "broken connection", 3),
    "cut": (send(JPEG[: len(JPEG) // 2], length=0), "broken picture", 2),
    "cut-png": (send(PNG[: len(PNG) // 2], length=0), "broken picture", 2),
    "huge": (send(b"", length=21 << 20), "too large", 1),
    "round": (send(b"", 302, Location="/round"), "broken connection", 3 * 31),
    "away": (send(b"", 302, Location="file:///etc/passwd"), "unreachable", 1),
    "nonsense": (send(b"", 302, Location="http://[bad"), "unreachable", 1),
    "non-host": (send(b"", 302, Location="http://a..\xe9/"), "unreachable", 1),
}
PERMANENT = {"404", "410", "html", "empty", "bmp", "spacer", "pixel", "no-image", "huge"}


@pytest.mark.parametrize("case", BAD)
def test_why_a_picture_is_missing(tmp_path: Path, shop: Shop, case: str) -> None:
    shop.replies[f"/{case}"], reason, asked = BAD[case]
    folder = write_items(
        tmp_path / "shop", {"good": f"{shop.url}/good", "bad": f"{shop.url}/{case}"}
    )
    assert fetch(folder).reasons == {reason: 1}
    assert shop.asked[f"/{case}"] == asked
    assert files(folder) == {"good.jpg": JPEG}
    entry = manifest(folder)["missing"]["bad"]
    assert (entry["reason"], entry["address"]) == (reason, f"{shop.url}/{case}")
    assert manifest(folder)["reasons"] == {reason: 1}
    # A second run asks again only for what may have come back.
    again = fetch(folder)
    assert (again.fetched, again.present, again.reasons) == (0, 1, {reason: 1})
    assert shop.asked[f"/{case}"] == asked * (1 if case in PERMANENT else 2)
    assert shop.asked["/good"] == 1
    # A third one asks for all that is missing, if told to.
    shop.replies.clear()
    assert fetch(folder, retry_missing=True).fetched == 1
    assert manifest(folder)["missing"] == {}
    assert set(files(folder)) == {"good.jpg", "bad.jpg"}


def test_a_body_of_untold_size_is_cut_off(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "LARGEST", 200_000)
    sent = []

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(JPEG + bytes(100_000))
            sent.append(100_000)

    shop.default = endless
    assert fetch(write_items(tmp_path / "shop", {"a": f"{shop.url}/a"})).reasons == {"too large": 1}
    assert sum(sent) < 50_000_000


def test_a_body_in_chunks(tmp_path: Path, shop: Shop) -> None:
    def chunks(whole: bool) -> Reply:
        def reply(handler: Handler) -> None:
            handler.protocol_version = "HTTP/1.1"
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for start in range(0, len(PNG), 1000):
                part = PNG[start : start + 1000]
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            handler.wfile.write(b"0\r\n\r\n" if whole else b"")

        return reply

    shop.replies |= {"/a": chunks(True), "/b": chunks(False)}
    folder = write_items(tmp_path / "shop", {token: f"{shop.url}/{token}" for token in "ab"})
    assert fetch(folder).reasons == {"broken connection": 1}
    assert files(folder) == {"a.png": PNG}


@pytest.mark.parametrize(("block", "length"), [(1, 60_000), (pictures.BLOCK, None)])
def test_a_body_that_trickles_is_given_up(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch, block: int, length: int | None
) -> None:
    monkeypatch.setattr(pictures, "LONGEST", 0.05)
    ended = threading.Event()

    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        while not ended.wait(0.02):
            handler.wfile.write(bytes(block))

    shop.replies["/slow"] = trickle
    folder = write_items(tmp_path / "shop", {"a": f"{shop.url}/a", "b": f"{shop.url}/slow"})
    began = time.monotonic()
    try:
        assert fetch(folder).reasons == {"broken connection": 1}
    finally:
        ended.set()
    assert time.monotonic() - began < 5.0
    assert manifest(folder)["missing"]["b"]["detail"] == "it takes more than 0 s"


def test_trouble_that_passes(tmp_path: Path, shop: Shop) -> None:
    shop.replies["/a"] = in_turn(send(b"", 503), hang_up, send(JPEG))
    shop.replies["/b"] = in_turn(send(b"<html>busy</html>"), send(PNG))
    shop.replies["/c"] = in_turn(send(b"", 302, Location="/real"), send(JPEG))
    folder = write_items(tmp_path / "shop", {token: f"{shop.url}/{token}" for token in "abc"})
    assert fetch(folder).fetched == 3
    assert shop.asked == {"/a": 3, "/b": 2, "/c": 1, "/real": 1}


def test_a_servers_wish_is_waited_for(tmp_path: Path, shop: Shop) -> None:
    shop.replies["/a"] = in_turn(send(b"", 429, Retry_After="1"), send(JPEG))
    folder = write_items(tmp_path / "shop", {"a": f"{shop.url}/a"})
    retry_policy = RetryPolicy(attempts=2, first_wait=0.001, longest_wait=5.0)
    began = time.monotonic()
    assert fetch_images("shop", folder, progress=False, retry_policy=retry_policy).fetched == 1
    assert time.monotonic() - began >= 1.0


def test_addresses_that_are_not_asked_for(tmp_path: Path, shop: Shop) -> None:
    long = "x" * 260
    icon = f"{shop.url}/images/G/01/x-site/icons/no-img-sm._V1_.gif"
    folder = write_items(
        tmp_path / "shop",
        {
            "a": "",
            "b": "ftp://x/y.jpg",
            "c": "pics/c.jpg",
            "d": "pics/d.jpg",
            "e": icon,
            long: f"{shop.url}/long",
            "f": f"{shop.url}/f",
        },
    )
    (folder / "pics").mkdir()
    (folder / "pics/c.jpg").write_bytes(JPEG)
    counts = fetch(folder)
    assert (counts.fetched, counts.present) == (1, 1)
    assert {token: entry["reason"] for token, entry in manifest(folder)["missing"].items()} == {
        "a": "no address",
        "b": "no http or https address",
        "d": "no http or https address",
        "e": "placeholder",
        long: "token too long for a file",
    }
    assert shop.asked == {"/f": 1}


def test_without_pillow_the_first_bytes_decide(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.replies["/a"] = send(PNG[:50])
    shop.replies["/b"] = send(b"<html>")
    shop.replies["/c"] = send(picture("GIF", 1))
    monkeypatch.setitem(sys.modules, "PIL", None)
    folder = write_items(tmp_path / "shop", {token: f"{shop.url}/{token}" for token in "abc"})
    assert fetch(folder).reasons == {"not a picture": 1, "placeholder": 1}
    assert set(files(folder)) == {"a.png"}


# Going on ----------------------------------------------------------------------------------------


def test_what_is_there_is_not_fetched(tmp_path: Path, shop: Shop) -> None:
    folder = write_items(tmp_path / "shop", {token: f"{shop.url}/{token}" for token in "abcde"})
    (folder / "images").mkdir()
    (folder / "images/a.png").write_bytes(PNG)
    (folder / "images/b.jpg").write_text("no picture")
    left = folder / f"images/.{'7' * 16}.tmp"
    left.write_bytes(JPEG[:50])
    (folder / "images/d.JPG").write_bytes(JPEG)
    (folder / "away").write_bytes(JPEG)
    (folder / "images/e.jpg").symlink_to(folder / "away")
    with atomic_path(folder / "images/x.jpg") as new:  # another process's
        counts = fetch(folder)
        assert new.exists()
    assert (counts.fetched, counts.present) == (2, 3)
    assert not left.exists()
    assert set(shop.asked) == {"/b", "/c"}


def test_links_out_of_the_folder_are_kept_and_told(tmp_path: Path, shop: Shop) -> None:
    folder = write_items(tmp_path / "shop", {token: f"{shop.url}/{token}" for token in "ab"})
    (folder / "images").mkdir()
    (tmp_path / "away").write_bytes(JPEG)
    (folder / "images/a.jpg").symlink_to(tmp_path / "away")
    counts = fetch(folder)
    assert (counts.fetched, counts.reasons) == (1, {"outside its folder": 1})
    assert (folder / "images/a.jpg").is_symlink()
    assert set(shop.asked) == {"/b"}


def test_a_changed_manifest_is_told(tmp_path: Path, shop: Shop) -> None:
    shop.default = send(b"", 404)
    folder = write_items(tmp_path / "shop", {"a": f"{shop.url}/a"})
    fetch(folder)
    path = folder / "images/manifest.json"
    path.write_text(path.read_text().replace("HTTP 404", "HTTP 405"))
    with pytest.raises(DataError, match=r"manifest.json is damaged \(its checksum differs\)"):
        fetch(folder)
    path.unlink()  # the way out
    assert fetch(folder).reasons == {"HTTP 404": 1}
    content = json.loads(path.read_text())
    del content["checksum"]  # as earlier versions wrote it
    path.write_text(json.dumps(content))
    assert fetch(folder).reasons == {"HTTP 404": 1}


def test_a_new_address_is_asked_for(tmp_path: Path, shop: Shop) -> None:
    shop.replies["/old"] = send(b"", 404)
    folder = write_items(tmp_path / "shop", {"a": f"{shop.url}/old", "b": f"{shop.url}/b"})
    assert fetch(folder).reasons == {"HTTP 404": 1}
    write_items(folder, {"a": f"{shop.url}/new", "b": f"{shop.url}/b"})
    assert fetch(folder).fetched == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": 1, "missing": {"a": 1}}'])
def test_a_damaged_manifest_is_told(tmp_path: Path, shop: Shop, text: str) -> None:
    folder = write_items(tmp_path / "shop", {"a": f"{shop.url}/a"})
    (folder / "images").mkdir()
    (folder / "images/manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest.json.*; delete it and run the same"):
        fetch(folder)


def test_the_manifest_is_written_on_the_way(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(module, "_SAVE_SHARE", 0)
    shop.default = send(b"", 404)
    folder = write_items(tmp_path / "shop", {str(n): f"{shop.url}/{n}" for n in range(20)})
    seen = []
    save = module._Record.save

    def spy(record: Any) -> None:
        save(record)
        seen.append(manifest(folder)["not_tried"])

    monkeypatch.setattr(module._Record, "save", spy)
    fetch(folder, workers=1)
    assert seen[0] > seen[len(seen) // 2] > seen[-1] == 0


SLOW_RUN = """
import sys
from pathlib import Path
from recbole_hellm.data.downloads import images
images._SAVE_EVERY = images._SAVE_SHARE = 0
folder = Path(sys.argv[1])
images.fetch_images(folder.name, folder, images.ImageSettings(workers=4), progress=False)
"""


def test_a_killed_run_is_gone_on_with(tmp_path: Path, shop: Shop) -> None:
    large = picture("PNG", 200)
    begun = threading.Semaphore(0)

    def slowly(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(large)))
        handler.end_headers()
        begun.release()
        for start in range(0, len(large), 30_000):
            handler.wfile.write(large[start : start + 30_000])
            time.sleep(0.005)

    gone = {f"g{n:02d}": f"{shop.url}/g{n:02d}" for n in range(20)}
    there = {f"i{n:02d}": f"{shop.url}/i{n:02d}" for n in range(60)}
    shop.default = slowly
    shop.replies |= {f"/{token}": send(b"", 404) for token in gone}
    folder = write_items(tmp_path / "shop", gone | there)
    command = [sys.executable, "-c", SLOW_RUN, str(folder)]
    process = subprocess.Popen(command)  # noqa: S603
    for _ in range(20):
        assert begun.acquire(timeout=60)
    while manifest(folder)["reasons"] != {"HTTP 404": 20}:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {name for name, body in files(folder).items() if name.endswith(".png")}
    assert 0 < len(done) < len(there)
    assert all(body == large for name, body in files(folder).items() if name in done)
    shop.default = send(large)
    before = Counter(shop.asked)
    counts = fetch(folder, workers=4)
    assert (counts.present, counts.fetched) == (len(done), len(there) - len(done))
    after = shop.asked - before
    assert not any(f"/{name.removesuffix('.png')}" in after for name in done)
    assert not set(after) & {f"/{token}" for token in gone}  # the manifest remembered them
    assert counts.reasons == {"HTTP 404": 20}


# Many at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 5])
def test_as_many_are_fetched_at_once_as_told(tmp_path: Path, shop: Shop, workers: int) -> None:
    all_workers = threading.Barrier(workers)

    def reply(handler: Handler) -> None:
        all_workers.wait(timeout=30)
        send(JPEG)(handler)

    shop.default = reply
    folder = write_items(tmp_path / "shop", {str(n): f"{shop.url}/{n}" for n in range(40)})
    assert fetch(folder, workers=workers).fetched == 40
    assert shop.most == workers
    assert set(shop.asked.values()) == {1}


@pytest.mark.parametrize("workers", [0, 65, "many"])
def test_numbers_of_workers_that_are_none(workers: Any) -> None:
    with pytest.raises(ConfigError, match="workers="):
        ImageSettings(workers=workers)


# Nothing comes -----------------------------------------------------------------------------------


def test_no_network_is_told_and_nothing_is_taken_for_gone(tmp_path: Path, shop: Shop) -> None:
    closed = closed_port()
    shop.default = send(b"", 404)
    folder = write_items(tmp_path / "shop", {"a": f"{shop.url}/a", "b": f"{shop.url}/b"})
    fetch(folder)
    addresses = {"a": f"{shop.url}/a"} | {f"i{n}": f"{closed}/{n}" for n in range(100)}
    write_items(folder, addresses)
    with pytest.raises(DataError, match=r"^No picture of 'shop' could be reached \(127") as error:
        fetch(folder)
    assert "refused" in str(error.value)
    assert "\n" not in str(error.value)
    found = manifest(folder)
    assert found["reasons"] == {"unreachable": 100, "HTTP 404": 1}
    assert found["missing"]["i0"]["detail"].startswith("no connection (")
    # What was gone for good is still known to be.
    write_items(folder, {"a": f"{closed}/a"})
    with pytest.raises(DataError, match="could be reached"):
        fetch(folder)
    shop.asked.clear()
    write_items(
        folder, {token: address.replace(closed, shop.url) for token, address in addresses.items()}
    )
    shop.default = send(JPEG)
    assert fetch(folder).fetched == 101


def test_what_is_gone_stays_so_without_a_network(tmp_path: Path) -> None:
    closed = closed_port()
    folder = write_items(tmp_path / "shop", {"a": f"{closed}/a"})
    (folder / "images").mkdir()
    missing = {"a": {"reason": "HTTP 404", "address": f"{closed}/a"}}
    text = json.dumps({"format_version": 1, "missing": missing})
    (folder / "images/manifest.json").write_text(text)
    with pytest.raises(DataError, match="could be reached"):
        fetch(folder, retry_missing=True)
    assert manifest(folder)["missing"] == missing


def test_a_host_that_does_not_answer_is_left_alone(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hosts, "DEAD_AFTER", 3)
    tried = []
    receive = pictures.receive

    def spy(session: requests.Session, address: str, timeout: float) -> bytes:
        tried.append(address)
        return receive(session, address, timeout)

    monkeypatch.setattr(pictures, "receive", spy)
    closed = closed_port()
    addresses = {f"d{n}": f"{closed}/{n}" for n in range(50)}
    folder = write_items(tmp_path / "shop", addresses | {"z": f"{shop.url}/z"})
    counts = fetch(folder, workers=1)
    assert counts.fetched == 1
    assert counts.reasons == {"unreachable": 50}
    assert len(tried) <= 2 * (3 + 2) + 1
    assert "its other pictures wait for the next run" in caplog.text


@pytest.mark.parametrize(("code", "workers"), [(429, 1), (429, 8), (503, 8)])
def test_a_host_that_has_too_much_to_do_is_left_for_the_next_run(
    tmp_path: Path, shop: Shop, caplog: pytest.LogCaptureFixture, code: int, workers: int
) -> None:
    shop.default = send(b"", code)
    other = Shop()
    addresses = {str(n): f"{shop.url}/{n}" for n in range(200)}
    folder = write_items(tmp_path / "shop", addresses | {"z": f"{other.url}/z"})
    counts = fetch(folder, workers=workers)
    other.http.shutdown()
    other.http.server_close()
    assert (counts.fetched, counts.reasons) == (1, {f"HTTP {code}": 200})
    assert sum(shop.asked.values()) <= hosts.DEAD_AFTER + workers
    assert caplog.text.count("its other pictures wait for the next run") == 1
    assert "the server has trouble" in manifest(folder)["missing"]["199"]["detail"]
    shop.default = send(JPEG)
    assert fetch(folder).fetched == 200  # for nothing is taken for gone


def test_all_wait_for_a_host_that_asks_for_it(tmp_path: Path, shop: Shop) -> None:
    asked, lock = [], threading.Lock()

    def busy_at_first(handler: Handler) -> None:
        with lock:
            asked.append(time.monotonic())
            first = len(asked) == 1
        (send(b"", 429, Retry_After="1") if first else send(JPEG))(handler)

    shop.default = busy_at_first
    addresses = {str(n): f"{shop.url}/{n}" for n in range(60)}
    folder = write_items(tmp_path / "shop", addresses)
    retry_policy = RetryPolicy(attempts=2, first_wait=0.001, longest_wait=5.0)
    settings = ImageSettings(workers=4)
    assert fetch_images("shop", folder, settings, False, retry_policy).fetched == 60
    # The few that were under way already are not held up.
    assert sum(when - asked[0] >= 1.0 for when in asked) > 40


def test_a_host_that_is_busy_at_times_is_gone_on_with(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "DEAD_AFTER", 3)
    addresses = {str(n): f"{shop.url}/{n}" for n in range(20)}
    for number in addresses:
        shop.replies[f"/{number}"] = in_turn(send(b"", 503), send(b"", 503), send(JPEG))
    assert fetch(write_items(tmp_path / "shop", addresses), workers=1).fetched == 20


def test_many_hosts_that_do_not_answer_are_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "DEAD_AFTER", 8)
    closed = [closed_port() for _ in range(60)]
    folder = write_items(tmp_path / "shop", {str(n): f"{host}/" for n, host in enumerate(closed)})
    with pytest.raises(DataError, match="could be reached"):
        fetch(folder, workers=1)
    assert manifest(folder)["not_tried"] >= 40


def test_no_address_at_all_is_told(tmp_path: Path) -> None:
    folder = write_items(tmp_path / "shop", {"a": "", "b": ""})
    with pytest.raises(DataError, match=r"None of the 2 items of 'shop' has the address .*--items"):
        fetch(folder)
    (folder / "shop.item").write_text("item_id:token\ttitle:token_seq\na\tA\n")
    with pytest.raises(DataError, match=r"None of the 1 items of 'shop' has the address"):
        fetch(folder)
    assert not (folder / "images").exists()
    (folder / "images").mkdir()
    (folder / "images/a.jpg").write_bytes(JPEG)
    assert fetch(folder).present == 1
    with pytest.raises(DataError, match=r"none.item does not exist; prepare the dataset 'none'"):
        fetch(tmp_path / "none")


def test_a_folder_that_cannot_be_written(tmp_path: Path, shop: Shop) -> None:
    folder = write_items(tmp_path / "shop", {"a": f"{shop.url}/a"})
    (folder / "images").write_text("")
    with pytest.raises(DataError, match=r"images cannot be written \(.*\); make room or correct"):
        fetch(folder)


# The command -------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.replies["/b"] = send(b"", 404)
    folder = write_items(tmp_path / "007", {token: f"{shop.url}/{token}" for token in "abc"})
    (folder / "images").mkdir()
    (folder / "images/a.jpg").write_bytes(JPEG)
    arguments = ["images", "--dataset=007", f"--data_path={tmp_path}", "--workers=2"]
    with bars(True):
        assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "Pictures: 1 fetched, 1 already there, 1 missing",
        "          1  HTTP 404",
        f"Manifest: {folder / 'images/manifest.json'}",
    ]
    assert "007: 100%" in captured.err
    assert main([*arguments, "--retry_mising"]) == 2
    assert (
        "Unknown option '--retry_mising' (did you mean retry_missing?)" in capsys.readouterr().err
    )


def test_an_interrupt_ends_the_command_at_once(tmp_path: Path, shop: Shop) -> None:
    begun, hold = threading.Event(), threading.Event()

    def silent(handler: Handler) -> None:
        begun.set()
        hold.wait(30)

    shop.default = silent
    shop.replies["/a"] = send(JPEG)
    folder = write_items(tmp_path / "shop", {token: f"{shop.url}/{token}" for token in "abcdef"})
    command = [sys.executable, "-m", "recbole_hellm", "images", "--dataset=shop"]
    command.append(f"--data_path={tmp_path}")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert begun.wait(60)
        while not (folder / "images/manifest.json").exists():  # written after the first picture
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert time.monotonic() - began < 5
    finally:
        hold.set()
        process.kill()
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here." in told
    assert "Traceback" not in told
    assert manifest(folder)["pictures"] == 1
