from __future__ import annotations

import dataclasses
import functools
import gzip
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.downloads.retry import RetryPolicy
from recbole_hellm.data.preparation.datasets.amazon2014 import Amazon2014
from recbole_hellm.data.preparation.datasets.amazon2018 import Amazon2018
from recbole_hellm.data.preparation.datasets.base import RawFile
from recbole_hellm.data.preparation.datasets.movielens import MovieLens
from recbole_hellm.data.preparation.datasets.raw_files import find_raw_files, raw_files
from recbole_hellm.errors import DataError

QUICK = RetryPolicy(attempts=2, first_wait=0.001, longest_wait=0.001, timeout=2.0)
FAMILIES = (Amazon2014(), Amazon2018(), MovieLens())
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


def found(name: str, raw_dir: Path | None = None) -> list[Path]:
    """Reviews and metadata."""
    paths = find_raw_files(Amazon2014(), name, raw_dir)
    assert paths is not None
    return list(paths.values())


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


def get(name: str, tmp_path: Path, mirror: Mirror, raw_dir: Path | None = None) -> list[Path]:
    mirrors = Mirrors([f"{mirror.address}/{{file}}"])
    family = next(family for family in FAMILIES if name in family.datasets)
    options: dict[str, Any] = {"progress": False, "retry_policy": QUICK}
    return [*raw_files(family, name, tmp_path / name, raw_dir, mirrors, **options).values()]


def test_raw_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = write(tmp_path / "here", *(f"{file}.gz" for file in TOYS))
    below = write(tmp_path / "below" / "Toys_and_Games", *TOYS)
    assert found("Toys", here)[1] == here / "meta_Toys_and_Games.json.gz"
    assert found("Toys", tmp_path / "below")[0] == below / "reviews_Toys_and_Games_5.json"
    monkeypatch.setenv("HELLM_RAW_DIR", str(here))
    assert found("Toys")[0].parent == here
    assert found("Toys", tmp_path / "below")[0].parent == below
    assert found("Toys", tmp_path)[0].parent == here
    (below / "meta_Toys_and_Games.json").unlink()
    assert found("Toys", tmp_path / "below")[0].parent == here
    assert find_raw_files(Amazon2014(), "Sports", here) is None


def test_files_that_are_there_are_not_fetched(tmp_path: Path, mirror: Mirror) -> None:
    here = write(tmp_path / "here", *TOYS)
    assert get("Toys", tmp_path, mirror, here)[0].parent == here
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
        assert raw == [folder / f"{file}.gz" for file in TOYS]
        assert gzip.decompress(raw[1].read_bytes()) == b"meta_Toys_and_Games.json.gz"
    assert mirror.asked == [f"/{file}.gz" for file in TOYS]


def test_only_the_missing_one_of_two_is_fetched(tmp_path: Path, mirror: Mirror) -> None:
    write(tmp_path / "served", *(f"{file}.gz" for file in TOYS))
    write(tmp_path / "raw", TOYS[0])
    raw = get("Toys", tmp_path, mirror, tmp_path / "raw")
    assert raw == [tmp_path / "raw" / TOYS[0], tmp_path / "raw" / f"{TOYS[1]}.gz"]
    assert mirror.asked == [f"/{TOYS[1]}.gz"]


def test_editions_whose_files_share_names_are_kept_apart(tmp_path: Path, mirror: Mirror) -> None:
    files = ("Toys_and_Games_5.json.gz", "meta_Toys_and_Games.json.gz")
    write(tmp_path / "served", *files)
    raw_dir = write(tmp_path / "raw", *TOYS)
    raw = get("Toys_and_Games-2018", tmp_path, mirror, raw_dir)
    assert raw == [raw_dir / "Toys_and_Games-2018" / file for file in files]
    assert get("Toys_and_Games-2018", tmp_path, mirror, raw_dir) == raw
    assert len(mirror.asked) == 2


def test_what_cannot_be_had_is_told_in_one_sentence(tmp_path: Path, mirror: Mirror) -> None:
    family = Amazon2014()
    cases = [
        (lambda: get("Sports", tmp_path, mirror, tmp_path / "raw"), "is not there (HTTP 404)"),
        (lambda: raw_files(family, "Sports", tmp_path, tmp_path / "raw"), "off (mirrors=none)"),
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
            "put them into one folder, packed or unpacked, and name it with --raw_dir or the "
            "environment variable HELLM_RAW_DIR."
        )
        assert reason in message
        assert "\n" not in message
    assert mirror.asked == ["/reviews_Sports_and_Outdoors_5.json.gz"]
    with pytest.raises(DataError, match="no folder is set"):
        raw_files(Amazon2014(), "Sports", tmp_path)


def test_no_address_for_an_edition(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("amazon2014: []")
    mirrors = Mirrors(str(tmp_path / "m.yaml"))
    with pytest.raises(DataError, match=r"no address of Software_5\.json\.gz is known"):
        raw_files(Amazon2018(), "Software-2018", tmp_path, mirrors=mirrors)


def zipped(folder: Path, name: str = "ml-100k", *files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for file in files or ("u.data", "u.item"):
            archive.writestr(f"{name}/{file}", file)
    return folder / f"{name}.zip"


def test_archives_are_found_packed_and_unpacked(tmp_path: Path) -> None:
    for folder in ("raw", "raw/ml-100k"):
        archive = zipped(tmp_path / folder)
        assert find_raw_files(MovieLens(), "ml-100k", tmp_path / "raw") == {
            "ratings": archive / "ml-100k/u.data",
            "movies": archive / "ml-100k/u.item",
        }
    archive.unlink()
    unpacked = write(tmp_path / "raw/ml-100k", "u.data", "u.item")
    assert find_raw_files(MovieLens(), "ml-100k", tmp_path / "raw") == {
        "ratings": unpacked / "u.data",
        "movies": unpacked / "u.item",
    }


def test_an_archive_is_fetched_once_for_all_its_files(tmp_path: Path, mirror: Mirror) -> None:
    zipped(tmp_path / "served")
    for _ in range(2):
        paths = get("ml-100k", tmp_path, mirror, tmp_path / "raw")
        archive = tmp_path / "raw/ml-100k/ml-100k.zip"
        assert paths == [archive / "ml-100k/u.data", archive / "ml-100k/u.item"]
    assert mirror.asked == ["/ml-100k.zip"]


def test_archives_that_cannot_be_had(tmp_path: Path, mirror: Mirror) -> None:
    with pytest.raises(DataError, match=r"needs ml-1m\.zip \(not in .*raw; .*: put it into"):
        get("ml-1m", tmp_path, mirror, tmp_path / "raw")
    zipped(tmp_path / "served", "ml-1m", "ratings.dat")
    with pytest.raises(DataError, match=r"ml-1m\.zip has no file movies\.dat"):
        get("ml-1m", tmp_path, mirror, tmp_path / "raw")


def test_addresses_of_the_family(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a list of mirrors, files come from the addresses in the family's module."""

    class Here(MovieLens):
        def files(self, dataset: str) -> dict[str, RawFile]:
            addresses = (f"{mirror.address}/{{file}}",)
            files = super().files(dataset).items()
            return {part: dataclasses.replace(file, addresses=addresses) for part, file in files}

    monkeypatch.delenv("HELLM_MIRRORS")
    zipped(tmp_path / "served")
    raw_files(Here(), "ml-100k", tmp_path / "ml-100k", progress=False, retry_policy=QUICK)
    assert (tmp_path / "ml-100k/raw/ml-100k/ml-100k.zip").is_file()
