from __future__ import annotations

import functools
import gzip
import http.server
import json
import logging
import os
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.interactions.splits import split_fingerprint
from recbole_hellm.data.preparation.atomic import read_items, read_manifest
from recbole_hellm.data.preparation.datasets.amazon import prepare_amazon, read_meta, read_reviews
from recbole_hellm.data.preparation.datasets.catalogue import CATALOGUE, RawFiles, find_raw_files
from recbole_hellm.data.preparation.kcore import k_core
from recbole_hellm.data.preparation.prepare import PrepareSettings, prepare_files
from recbole_hellm.errors import ConfigError, DataError

REVIEWS = [  # user, item, time; one exact duplicate, one user with two interactions
    ("U1", "A1", 10),
    ("U2", "A1", 10),
    ("U1", "A2", 10),
    ("U1", "A3", 5),
    ("U1", "A3", 5),
    ("U2", "A3", 20),
]
META = [
    "{'asin': 'A2', 'title': 'The <b>Big</b>\\none &amp; only', 'brand': None, "
    "'categories': [['Toys & Games', 'Dress Up'], ['Other']], 'description': 'x<br\\n/>y'}",
    "{'categories': [[]], 'asin': 'A1', 'title': \"O'Neil\", 'price': 1.5}",
    "{'asin': 'ZZ', this is not even Python}",  # not wanted, so not parsed
    "{'asin': 'A2', 'title': 'a second line for A2'}",
]


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


def write_raw(folder: Path, suffix: str = ".gz", name: str = "Toys_and_Games") -> Path:
    write_lines(folder / f"reviews_{name}_5.json{suffix}", [review(*row) for row in REVIEWS])
    write_lines(folder / f"meta_{name}.json{suffix}", META)
    return folder


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_prepare(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    raw = write_raw(tmp_path / "raw", suffix)
    with caplog.at_level(logging.WARNING):
        manifest = prepare_amazon("Toys", tmp_path / "Toys", raw, progress=False)
    assert (tmp_path / "Toys" / "Toys.inter").read_text().split("\n")[1:] == [
        "U1\tA3\t0\t5",
        "U1\tA1\t1\t10",
        "U1\tA2\t2\t10",
        "U2\tA1\t0\t10",
        "U2\tA3\t1\t20",
        "",
    ]
    assert read_items(tmp_path / "Toys", "Toys").to_dict("list") == {
        "item_id": ["A1", "A2", "A3"],
        "title": ["O'Neil", "The Big one &amp; only", ""],
        "brand": ["", "", ""],
        "categories": [[], ["Toys & Games", "Dress Up"], []],
        "description": ["", "xy", ""],
    }
    assert read_manifest(tmp_path / "Toys") == manifest
    assert manifest["split_fingerprint"] == split_fingerprint(["U1"], ["A1"], ["A2"])
    assert [source["file"] for source in manifest["sources"]] == [
        f"reviews_Toys_and_Games_5.json{suffix}",
        f"meta_Toys_and_Games.json{suffix}",
    ]
    assert manifest["notes"] == {
        "category": "Toys_and_Games",
        "layout": "amazon2014",
        "duplicates_dropped": 1,
        "items_without_metadata": 1,
        "items_without_title": 1,
        "items_without_brand": 3,
        "items_without_categories": 2,
        "items_without_description": 2,
    }
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("1 users of 'Toys' have fewer than three interactions")
    assert "2 users, 3 items, 5 interactions" in messages[1]
    assert "19,412 users, 11,924 items, 167,597 interactions" in messages[1]


BAD_REVIEWS = [
    ("{", "is no JSON"),
    ("[1, 2]", "is a list, not an object"),
    ("{'asin': 'A'}", "is no JSON"),
    ("[" * 100_000, "is no JSON"),
    (review(user=""), "has no reviewerID"),
    (review(user=7), "has no reviewerID"),
    (review(item=" "), "has no asin"),
    (review(item="A\tB"), "has no asin"),
    (review(user="\ud800"), "has no reviewerID"),
    ('{"reviewerID": "U", "unixReviewTime": 1}', "has no asin"),
    ('{"reviewerID": "U", "asin": "A"}', "has unixReviewTime None"),
    (review(when="1"), "has unixReviewTime '1'"),
    (review(when=1.5), "has unixReviewTime 1.5"),
    (review(when=True), "has unixReviewTime True"),
    (review(when=2**70), "has unixReviewTime 118"),
]


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize(("line", "message"), BAD_REVIEWS, ids=range(len(BAD_REVIEWS)))
def test_malformed_reviews(tmp_path: Path, suffix: str, line: str, message: str) -> None:
    path = write_lines(tmp_path / f"reviews.json{suffix}", [review(), "", line, review()])
    with pytest.raises(DataError) as caught:
        read_reviews(path, progress=False)
    assert str(caught.value).startswith(f"{path}, line 3 {message}")


BAD_META = [
    ("{'asin': 'A', 'title': ", "is no Python literal"),
    ("{'asin': 'A', 'title': __import__('os').getcwd()}", "is no Python literal"),
    ("{'asin': 'A', [1]: 2}", "is no Python literal"),
    ("{'asin': 'A', 'title': '\\x00'}".replace("\\x00", "\0"), "is no Python literal"),
    ("'asin'", "is a str, not an object"),
    ("{'title': 'no id'}", "has no asin"),
    ("{'asin': 'A', 'title': ['x']}", "has a title that is no text"),
    ("{'asin': 'A', 'categories': 'Beauty'}", "has categories that are no list of lists"),
    ("{'asin': 'A', 'categories': ['Beauty']}", "has categories that are no list of lists"),
]


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize(("line", "message"), BAD_META, ids=range(len(BAD_META)))
def test_malformed_metadata(tmp_path: Path, suffix: str, line: str, message: str) -> None:
    path = write_lines(tmp_path / f"meta.json{suffix}", ["{'asin': 'B'}", line])
    with pytest.raises(DataError) as caught:
        read_meta(path, {"A", "B"}, progress=False)
    assert str(caught.value).startswith(f"{path}, line 2 {message}")


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    reviews, meta = tmp_path / "r.json", tmp_path / "m.json"
    reviews.write_bytes(b'{"reviewerID": "\xff", "asin": "A", "unixReviewTime": 1}\n')
    meta.write_bytes(b"{'asin': 'A', 'title': '\xff'}\n")
    with pytest.raises(DataError, match="line 1 is no JSON"):
        read_reviews(reviews, progress=False)
    with pytest.raises(DataError, match="line 1 is no Python literal"):
        read_meta(meta, {"A"}, progress=False)


def test_lone_surrogates_in_texts(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.json", ["{'asin': 'A', 'title': 'x\\ud800'}"])
    assert read_meta(path, {"A"}, progress=False)["title"].tolist() == ["x?"]


def test_truncated_gzip(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.json.gz", [review(item=f"A{i * i}") for i in range(5_000)])
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(DataError, match=r"r\.json\.gz cannot be read beyond line \d+"):
        read_reviews(path, progress=False)
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read beyond line 0"):
        read_reviews(path, progress=False)


def test_empty_reviews(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no reviews"):
        read_reviews(write_lines(tmp_path / "r.json", []), progress=False)


def test_unwanted_items_are_left_out_however_their_line_begins(tmp_path: Path) -> None:
    lines = ["{'price': 1, 'asin': 'B'}", '{"asin": "C"}', "{'asin': 'A', 'asin': 'A'}"]
    items = read_meta(write_lines(tmp_path / "m.json", lines), {"A"}, progress=False)
    assert items["item_id"].tolist() == ["A"]


def test_addresses_of_pictures_are_kept(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw")
    prepare_amazon("Toys", tmp_path / "before" / "Toys", raw, progress=False)
    addresses = ["{'asin': 'A1', 'imUrl': 'http://x/a_1.jpg'}", "{'asin': 'A3', 'imUrl': ['x']}"]
    write_lines(raw / "meta_Toys_and_Games.json.gz", [*addresses, *META])
    prepare_amazon("Toys", tmp_path / "Toys", raw, progress=False)
    items = read_items(tmp_path / "Toys", "Toys")
    assert items["image"].tolist() == ["http://x/a_1.jpg", "", ""]
    header = (tmp_path / "Toys/Toys.item").read_text().partition("\n")[0]
    assert header.endswith("\tdescription:token_seq\timage:token")
    # Without any address the file is what it was before there were such columns.
    header = (tmp_path / "before/Toys/Toys.item").read_text().partition("\n")[0]
    assert header.endswith("\tdescription:token_seq")


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
    prepare_amazon(name, tmp_path / name, tmp_path / "raw", progress=False)
    assert read_items(tmp_path / name, name)["image"].tolist() == [address, ""]


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
        made = prepare_amazon(name, tmp_path / name, progress=False, mirrors=mirrors)
        server.shutdown()
    assert [source["file"] for source in made["sources"]] == list(SERVED[name])
    rows = (tmp_path / name / f"{name}.inter").read_text().splitlines()[1:]
    assert rows == ["U1\tA1\t0\t10", "U2\tA2\t0\t20"]
    items = read_items(tmp_path / name, name)
    assert items["title"].tolist() == ["Top", ""]
    assert items["categories"].tolist() == [["T"], []]
    assert made["notes"]["layout"] == f"amazon{name[-4:] if '-' in name else 2014}"


def test_unknown_category(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'Boks'.*Beauty, Toys, Sports"):
        prepare_amazon("Boks", tmp_path)


@pytest.fixture(scope="module")
def real_folder() -> Path:
    beside = Path(__file__).resolve().parents[5] / "shared" / "data" / "amazon2014"
    folder = Path(os.environ.get("HELLM_RAW_DIR", beside))
    if not folder.is_dir():
        pytest.skip("no real Amazon files: set HELLM_RAW_DIR to the folder that holds them")
    return folder


def real_raw(folder: Path, name: str) -> RawFiles:
    found = find_raw_files(name, folder)
    if found is None:
        pytest.skip(f"{folder} lacks the files of {name}")
    return found


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "tied"), [("Beauty", 9_719), ("Toys", 9_518)])
def test_real_counts(
    tmp_path: Path, real_folder: Path, name: str, tied: int, caplog: pytest.LogCaptureFixture
) -> None:
    started = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        raw = real_raw(real_folder, name)
        manifest = prepare_amazon(name, tmp_path, real_folder, progress=False)
    assert time.perf_counter() - started < 30
    expected = CATALOGUE[name]
    counted = (manifest["users"], manifest["items"], manifest["interactions"])
    assert counted == (expected.users, expected.items, expected.interactions)
    assert manifest["users_with_tied_test"] == tied
    times: dict[str, list[int]] = {}
    with gzip.open(raw.reviews, "rt") as lines:
        for record in map(json.loads, lines):
            times.setdefault(record["reviewerID"], []).append(record["unixReviewTime"])
    ordered = [sorted(whole) for whole in times.values()]
    assert tied == sum(whole[-1] == whole[-2] for whole in ordered)
    validation = sum(whole.count(whole[-2]) > 1 for whole in ordered)
    assert manifest["users_with_tied_validation"] == validation
    assert manifest["users_below_three"] == 0
    assert manifest["notes"]["duplicates_dropped"] == 0
    assert manifest["notes"]["items_without_metadata"] == 0
    assert not caplog.records
    items = read_items(tmp_path, name)
    assert len(items) == expected.items
    assert items["categories"].map(len).min() >= 1
    assert (items["title"] == "").sum() == manifest["notes"]["items_without_title"]
    assert manifest["notes"]["items_without_title"] == {"Beauty": 7, "Toys": 59}[name]


@pytest.mark.realdata
def test_real_fingerprint_does_not_depend_on_row_order(tmp_path: Path, real_folder: Path) -> None:
    raw = real_raw(real_folder, "Beauty")
    with gzip.open(raw.reviews, "rt") as file:
        lines = file.read().splitlines()
    shuffled = pd.Series(lines).sample(frac=1, random_state=0).tolist()
    assert shuffled != lines
    write_lines(tmp_path / "raw" / "reviews_Beauty_5.json", shuffled)
    with gzip.open(raw.meta, "rb") as file:
        (tmp_path / "raw" / "meta_Beauty.json").write_bytes(file.read())
    first = prepare_amazon("Beauty", tmp_path / "one", real_folder, progress=False)
    second = prepare_amazon("Beauty", tmp_path / "two", tmp_path / "raw", progress=False)
    assert first["split_fingerprint"] == second["split_fingerprint"]
    assert first["files"] == second["files"]


@pytest.mark.realdata
def test_real_files_read_as_any_files_make_the_same_dataset(
    tmp_path: Path, real_folder: Path
) -> None:
    raw = real_raw(real_folder, "Beauty")
    by_name = prepare_amazon("Beauty", tmp_path / "Beauty", real_folder, progress=False)
    settings = PrepareSettings(interactions=str(raw.reviews), items=str(raw.meta))
    as_files = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert as_files["notes"]["layout"] == "amazon2014"
    same = ("split_fingerprint", "candidate_fingerprint", "users_with_tied_validation", "sources")
    for key in same:
        assert as_files[key] == by_name[key]
    for kind in ("inter", "item"):
        content = (tmp_path / f"Beauty/Beauty.{kind}").read_bytes()
        assert (tmp_path / f"mine/mine.{kind}").read_bytes() == content


@pytest.mark.realdata
def test_the_real_five_core_is_one(real_folder: Path) -> None:
    reviews = read_reviews(real_raw(real_folder, "Beauty").reviews, progress=False)
    assert len(k_core(reviews, 5)) == len(reviews)
    assert 0 < len(k_core(reviews, 8)) < len(reviews)
