from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
from pathlib import Path

import pytest

from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.interactions.atomic_files import read_items
from recbole_hellm.data.preparation.datasets.families import family_of
from recbole_hellm.data.preparation.prepare import prepare_dataset


@pytest.fixture(autouse=True)
def no_raw_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELLM_RAW_DIR", raising=False)


def write_lines(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return path


def review(user: object = "U", item: object = "A", when: object = 1) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": when, "overall": 5.0})


SERVED = {
    "Toys": {
        "reviews_Toys_and_Games_5.json.gz": [review("U1", "A1", 10), review("U2", "A2", 20)],
        "meta_Toys_and_Games.json.gz": ["{'asin': 'A1', 'title': 'Top', 'categories': [['T']]}"],
    },
    "Toys_and_Games-2018": {
        "Toys_and_Games_5.json.gz": [review("U1", "A1", 10), review("U2", "A2", 20)],
        "meta_Toys_and_Games.json.gz": ['{"category": ["T"], "title": "Top", "asin": "A1"}'],
    },
    "Toys_and_Games-2023": {
        "Toys_and_Games.csv.gz": [
            "user_id,parent_asin,rating,timestamp",
            "U1,A1,5.0,10",
            "U2,A2,5.0,20",
        ],
        "meta_Toys_and_Games.jsonl.gz": [
            '{"title": "Top", "categories": ["T"], "parent_asin": "A1", "asin": null}'
        ],
    },
}


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "reviews", "meta", "category"),
    [
        ("Video_Games", "reviews_Video_Games_5.json", "meta_Video_Games.json", "Video_Games"),
        ("Toys", "reviews_Toys_and_Games_5.json", "meta_Toys_and_Games.json", "Toys_and_Games"),
        ("Video_Games-2018", "Video_Games_5.json", "meta_Video_Games.json", "Video_Games"),
        ("Video_Games-2023", "Video_Games.csv", "meta_Video_Games.jsonl", "Video_Games"),
    ],
)
def test_files_of_every_edition(name: str, reviews: str, meta: str, category: str) -> None:
    family = family_of(name)
    assert family is not None
    files = family.files(name)
    assert {part: file.name for part, file in files.items()} == {"reviews": reviews, "meta": meta}
    for file in files.values():
        assert file.downloaded == f"{file.name}.gz"
        assert len(file.addresses) >= 2
        for address in file.addresses:
            assert address.startswith("http")
            assert address.endswith("/{file}")
    assert family.folders(name) == (name, "", category)
    assert family.notes(name) == {"category": category}


@pytest.mark.parametrize("name", SERVED)
def test_download_and_prepare(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for file, lines in SERVED[name].items():
        write_lines(tmp_path / "served" / file, lines)
    handler = functools.partial(SilentHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        mirrors = Mirrors([f"http://127.0.0.1:{server.server_address[1]}/{{file}}"])
        made = prepare_dataset(name, tmp_path / name, progress=False, mirrors=mirrors)
        server.shutdown()
    assert [source["file"] for source in made["sources"]] == list(SERVED[name])
    rows = (tmp_path / name / f"{name}.inter").read_text().splitlines()[1:]
    assert rows == ["U1\tA1\t0\t10", "U2\tA2\t0\t20"]
    items = read_items(tmp_path / name, name)
    assert items["title"].tolist() == ["Top", ""]
    assert items["categories"].tolist() == [["T"], []]
    assert made["notes"]["layout"] == f"amazon{name[-4:] if '-' in name else 2014}"


@pytest.mark.parametrize(
    ("name", "fields", "address"),
    [
        ("Toys", "'imUrl': 'http://x/1.jpg'", "http://x/1.jpg"),
        (
            "Toys_and_Games-2018",
            '"imageURL": ["http://x/s.jpg"], "imageURLHighRes": ["http://x/l.jpg"]',
            "http://x/l.jpg",
        ),
        (
            "Toys_and_Games-2023",
            '"images": [{"thumb": "http://x/t.jpg", "large": "http://x/l.jpg", "hi_res": null}]',
            "http://x/l.jpg",
        ),
    ],
)
def test_addresses_of_every_edition(tmp_path: Path, name: str, fields: str, address: str) -> None:
    for file, lines in SERVED[name].items():
        if file.startswith("meta"):
            lines = [line.replace("{", f"{{{fields}, ", 1) for line in lines]
        write_lines(tmp_path / "raw" / file, lines)
    prepare_dataset(name, tmp_path / name, tmp_path / "raw", progress=False)
    assert read_items(tmp_path / name, name)["image"].tolist() == [address, ""]
