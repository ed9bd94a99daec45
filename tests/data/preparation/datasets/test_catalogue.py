from __future__ import annotations

import functools
import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_hellm.data.downloads.http import RetryPolicy
from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.preparation.datasets.catalogue import (
    CATALOGUE,
    RawFiles,
    find_raw_files,
    raw_files,
)
from recbole_hellm.errors import ConfigError, DataError

QUICK = RetryPolicy(attempts=2, first_wait=0.001, longest_wait=0.001, timeout=2.0)
TOYS = ("reviews_Toys_and_Games_5.json", "meta_Toys_and_Games.json")


@pytest.fixture(autouse=True)
def no_raw_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HELLM_RAW_DIR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def write(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = file.encode()
        (folder / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    return folder


def found(name: str, raw_dir: Path | None = None) -> RawFiles:
    raw = find_raw_files(name, raw_dir)
    assert raw is not None
    return raw


class Mirror:
    """A server of a folder that notes what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    started = Mirror(write(tmp_path / "served"))
    yield started
    started.http.shutdown()
    started.http.server_close()


def get(name: str, tmp_path: Path, mirror: Mirror, raw_dir: Path | None = None) -> RawFiles:
    mirrors = Mirrors([f"{mirror.address}/{{file}}"])
    return raw_files(name, tmp_path / name, raw_dir, mirrors, progress=False, retry_policy=QUICK)


def test_the_categories_of_three_editions() -> None:
    assert list(CATALOGUE)[:3] == ["Beauty", "Toys", "Sports"]
    by_edition = [category.edition for category in CATALOGUE.values()]
    assert by_edition.count("amazon2014") == 24
    assert CATALOGUE["Video_Games"].reviews_file == "reviews_Video_Games_5.json"
    assert CATALOGUE["Video_Games-2018"].reviews_file == "Video_Games_5.json"
    assert CATALOGUE["Video_Games-2018"].meta_file == "meta_Video_Games.json"
    assert CATALOGUE["Video_Games-2023"].reviews_file == "Video_Games.csv"
    assert CATALOGUE["Video_Games-2023"].meta_file == "meta_Video_Games.jsonl"
    assert CATALOGUE["Baby"].expected == {"interactions": 160_792}


def test_raw_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = write(tmp_path / "here", *(f"{file}.gz" for file in TOYS))
    below = write(tmp_path / "below" / "Toys_and_Games", *TOYS)
    assert found("Toys", here).meta == here / "meta_Toys_and_Games.json.gz"
    assert found("Toys", tmp_path / "below").reviews == below / "reviews_Toys_and_Games_5.json"
    monkeypatch.setenv("HELLM_RAW_DIR", str(here))
    assert found("Toys").reviews.parent == here
    assert found("Toys", tmp_path / "below").reviews.parent == below
    assert found("Toys", tmp_path).reviews.parent == here
    (below / "meta_Toys_and_Games.json").unlink()
    assert found("Toys", tmp_path / "below").reviews.parent == here
    assert find_raw_files("Sports", here) is None
    with pytest.raises(ConfigError, match=r"'Toy' is no known Amazon category \(did you mean Toys"):
        find_raw_files("Toy", here)


def test_files_that_are_there_are_not_fetched(tmp_path: Path, mirror: Mirror) -> None:
    here = write(tmp_path / "here", *TOYS)
    assert get("Toys", tmp_path, mirror, here).reviews.parent == here
    assert mirror.asked == []


@pytest.mark.parametrize("where", ["own", "raw_dir", "variable"])
def test_missing_files_are_fetched_once(
    tmp_path: Path, mirror: Mirror, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "served", *(f"{file}.gz" for file in TOYS))
    folder = tmp_path / ("Toys/raw" if where == "own" else "raw")
    if where == "variable":
        monkeypatch.setenv("HELLM_RAW_DIR", str(folder))
    raw_dir = folder if where == "raw_dir" else None
    for _ in range(2):
        raw = get("Toys", tmp_path, mirror, raw_dir)
        assert raw == RawFiles(*(folder / f"{file}.gz" for file in TOYS))
        assert gzip.decompress(raw.meta.read_bytes()) == b"meta_Toys_and_Games.json.gz"
    assert mirror.asked == [f"/{file}.gz" for file in TOYS]


def test_only_the_missing_one_of_two_is_fetched(tmp_path: Path, mirror: Mirror) -> None:
    write(tmp_path / "served", *(f"{file}.gz" for file in TOYS))
    write(tmp_path / "raw", TOYS[0])
    raw = get("Toys", tmp_path, mirror, tmp_path / "raw")
    assert raw == RawFiles(tmp_path / "raw" / TOYS[0], tmp_path / "raw" / f"{TOYS[1]}.gz")
    assert mirror.asked == [f"/{TOYS[1]}.gz"]


def test_editions_whose_files_share_names_are_kept_apart(tmp_path: Path, mirror: Mirror) -> None:
    files = ("Toys_and_Games_5.json.gz", "meta_Toys_and_Games.json.gz")
    write(tmp_path / "served", *files)
    raw_dir = write(tmp_path / "raw", *TOYS)
    raw = get("Toys_and_Games-2018", tmp_path, mirror, raw_dir)
    assert raw == RawFiles(*(raw_dir / "Toys_and_Games-2018" / file for file in files))
    assert get("Toys_and_Games-2018", tmp_path, mirror, raw_dir) == raw
    assert len(mirror.asked) == 2


def test_what_cannot_be_had_is_told_in_one_sentence(tmp_path: Path, mirror: Mirror) -> None:
    cases = [
        (lambda: get("Sports", tmp_path, mirror, tmp_path / "raw"), "is not there (HTTP 404)"),
        (lambda: raw_files("Sports", tmp_path, tmp_path / "raw"), "switched off (mirrors=none)"),
    ]
    for attempt, reason in cases:
        with pytest.raises(DataError) as caught:
            attempt()
        message = str(caught.value)
        assert message.startswith(
            "Dataset 'Sports' needs reviews_Sports_and_Outdoors_5.json.gz and "
            f"meta_Sports_and_Outdoors.json.gz (not both in {tmp_path / 'raw'}; "
        )
        assert message.endswith(
            "put them into one folder, plain or gzipped, and name it with --raw_dir or the "
            "environment variable HELLM_RAW_DIR."
        )
        assert reason in message
        assert "\n" not in message
    assert mirror.asked == ["/reviews_Sports_and_Outdoors_5.json.gz"]
    with pytest.raises(DataError, match="no folder is set"):
        raw_files("Sports", tmp_path)


def test_no_address_for_an_edition(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("amazon2014: []")
    with pytest.raises(DataError, match=r"no address of Software_5\.json\.gz is known"):
        raw_files("Software-2018", tmp_path, mirrors=Mirrors(str(tmp_path / "m.yaml")))
