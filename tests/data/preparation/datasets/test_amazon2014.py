from __future__ import annotations

import gzip
import json
import logging
import time
from pathlib import Path

import pandas as pd
import pytest

from recbole_hellm.data.interactions.atomic_files import read_items
from recbole_hellm.data.preparation.datasets.amazon2014 import Amazon2014
from recbole_hellm.data.preparation.datasets.raw_files import find_raw_files
from recbole_hellm.data.preparation.kcore import k_core
from recbole_hellm.data.preparation.prepare import prepare_dataset, prepare_files
from recbole_hellm.data.preparation.settings import PrepareSettings
from recbole_hellm.errors import DataError
from recbole_hellm.storage.checksums import file_sha256

FAMILY = Amazon2014()
META = [
    "{'asin': 'A2', 'title': 'The <b>Big</b>\\none &amp; only', 'brand': None, "
    "'categories': [['Toys & Games', 'Dress Up'], ['Other']], 'description': 'x<br\\n/>y'}",
    "{'categories': [[]], 'asin': 'A1', 'title': \"O'Neil\", 'price': 1.5}",
    "{'asin': 'ZZ', this is not even Python}",  # not wanted, so not parsed
    "{'asin': 'A2', 'title': 'a second line for A2'}",
]


def read_reviews(path: Path) -> pd.DataFrame:
    return FAMILY.read_interactions("Toys", {"reviews": path}, progress=False)


def read_meta(path: Path, wanted: set[str]) -> pd.DataFrame:
    items = FAMILY.read_items("Toys", {"meta": path}, wanted, progress=False)
    assert items is not None
    return items


def write_lines(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return path


def review(user: object = "U", item: object = "A", when: object = 1) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": when, "overall": 5.0})


def test_names_and_totals() -> None:
    assert list(FAMILY.datasets)[:3] == ["Beauty", "Toys", "Sports"]
    assert len(FAMILY.datasets) == 24
    assert FAMILY.datasets["Baby"] == {"interactions": 160_792}
    assert FAMILY.layout.name == FAMILY.name == "amazon2014"


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_rows(tmp_path: Path, suffix: str) -> None:
    rows = [("U1", "A1", 10), ("U1", "A1", 10), ("U2", "A1", 5)]
    path = write_lines(tmp_path / f"reviews{suffix}", [review(*row) for row in rows])
    frame = read_reviews(path)
    assert frame.columns.tolist() == ["user_id", "item_id", "timestamp"]
    assert frame.to_numpy().tolist() == [list(row) for row in rows]
    meta = write_lines(tmp_path / f"meta{suffix}", META)
    assert read_meta(meta, {"A1", "A2", "A3"}).to_dict("list") == {
        "item_id": ["A2", "A1"],
        "title": ["The Big one &amp; only", "O'Neil"],
        "brand": ["", ""],
        "categories": [["Toys & Games", "Dress Up"], []],
        "description": ["xy", ""],
        "image": ["", ""],
    }


BAD_REVIEWS = [
    ("{", " is neither JSON nor a Python literal"),
    ("[1, 2]", " is a list, not an object"),
    ("[" * 100_000, " is neither JSON nor a Python literal"),
    (review(user=""), ": the reviewerID is ''"),
    (review(user=True), ": the reviewerID is True"),
    (review(item=" "), ": the asin is ' '"),
    (review(item="A\tB"), ": the asin is 'A"),
    (review(user="\ud800"), ": the reviewerID is"),
    ('{"reviewerID": "U", "unixReviewTime": 1}', ": the asin is empty"),
    ('{"reviewerID": "U", "asin": "A"}', ": the unixReviewTime is empty"),
    (review(when="x"), ": the unixReviewTime is 'x'"),
    (review(when=True), ": the unixReviewTime is True"),
    (review(when=2**70), ": the unixReviewTime is 118"),
]


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize(("line", "message"), BAD_REVIEWS, ids=range(len(BAD_REVIEWS)))
def test_malformed_reviews(tmp_path: Path, suffix: str, line: str, message: str) -> None:
    path = write_lines(tmp_path / f"reviews.json{suffix}", [review(), "", line, review()])
    with pytest.raises(DataError) as caught:
        read_reviews(path)
    assert str(caught.value).startswith(f"{path}, line 3{message}")


BAD_META = [
    ("{'asin': 'A', 'title': ", " is neither JSON nor a Python literal"),
    ("{'asin': 'A', 'title': __import__('os').getcwd()}", " is neither JSON nor a Python literal"),
    ("{'asin': 'A', [1]: 2}", " is neither JSON nor a Python literal"),
    ("{'asin': 'A', 'title': '\0'}", " is neither JSON nor a Python literal"),
    ("'asin'", " is a str, not an object"),
    ("{'title': 'no id'}", ": the asin is empty"),
    ("{'asin': 'A', 'title': {'x': 1}}", ": the title is a dict, not a text"),
    ("{'asin': 'A', 'categories': [[{}]]}", ": the categories is a dict, not a text"),
]


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize(("line", "message"), BAD_META, ids=range(len(BAD_META)))
def test_malformed_metadata(tmp_path: Path, suffix: str, line: str, message: str) -> None:
    path = write_lines(tmp_path / f"meta.json{suffix}", ["{'asin': 'B'}", line])
    with pytest.raises(DataError) as caught:
        read_meta(path, {"A", "B"})
    assert str(caught.value).startswith(f"{path}, line 2{message}")


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    reviews, meta = tmp_path / "r.json", tmp_path / "m.json"
    reviews.write_bytes(b'{"reviewerID": "\xff", "asin": "A", "unixReviewTime": 1}\n')
    meta.write_bytes(b"{'asin': 'A', 'title': '\xff'}\n")
    with pytest.raises(DataError, match="line 1 is not encoded in utf-8"):
        read_reviews(reviews)
    with pytest.raises(DataError, match="line 1 is not encoded in utf-8"):
        read_meta(meta, {"A"})


def test_lone_surrogates_in_texts(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.json", ["{'asin': 'A', 'title': 'x\\ud800'}"])
    assert read_meta(path, {"A"})["title"].tolist() == ["x?"]


def test_truncated_gzip(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.json.gz", [review(item=f"A{i * i}") for i in range(5_000)])
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(DataError, match=r"r\.json\.gz cannot be read beyond line \d+"):
        read_reviews(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"cannot be read \(Not a gzipped file"):
        read_reviews(path)


def test_empty_reviews(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_reviews(write_lines(tmp_path / "r.json", []))


def test_unwanted_items_are_left_out_however_their_line_begins(tmp_path: Path) -> None:
    lines = ["{'price': 1, 'asin': 'B'}", '{"asin": "C"}', "{'asin': 'A', 'asin': 'A'}"]
    items = read_meta(write_lines(tmp_path / "m.json", lines), {"A"})
    assert items["item_id"].tolist() == ["A"]


def test_addresses_of_pictures_are_kept(tmp_path: Path) -> None:
    write_lines(tmp_path / "raw/reviews_Toys_and_Games_5.json", [review(item="A1")])
    meta = tmp_path / "raw/meta_Toys_and_Games.json"
    headers = []
    for address in ("'imUrl': 'http://x/a_1.jpg'", "'price': 1"):
        write_lines(meta, [f"{{'asin': 'A1', {address}}}"])
        prepare_dataset("Toys", tmp_path / "Toys", tmp_path / "raw", progress=False)
        lines = (tmp_path / "Toys/Toys.item").read_text().splitlines()
        headers.append(lines[0].rpartition("\t")[2])
    # Without any address the file is what it was before there were such columns.
    assert headers == ["image:token", "description:token_seq"]


SHA256 = {  # of the files that earlier versions wrote
    "Beauty": {
        "inter": "9abc4d3e867af908a738f9edd789211420feb6ed0db33381fd0b899f65d03b5a",
        "item": "cec34b74f795533125b5b5d93439cc0646f525e1d83e9447e4a4cfdf9644f761",
    },
    "Toys": {
        "inter": "b1f514b8eb775ec502c5fa9cca2d738db6f5f40a6b5be8e17b3222d6a8268631",
        "item": "0ab67a26888b813bd311f661e2f00655e0061e77444e3eb3285f34b024112481",
    },
}


def real_raw(folder: Path, name: str) -> dict[str, Path]:
    paths = find_raw_files(FAMILY, name, folder)
    if paths is None:
        pytest.skip(f"{folder} lacks the files of {name}")
    return paths


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "tied"), [("Beauty", 9_719), ("Toys", 9_518)])
def test_real_counts(
    tmp_path: Path, raw_dir: Path, name: str, tied: int, caplog: pytest.LogCaptureFixture
) -> None:
    started = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        raw = real_raw(raw_dir, name)
        manifest = prepare_dataset(name, tmp_path, raw_dir, progress=False)
    assert time.perf_counter() - started < 30
    expected = FAMILY.datasets[name]
    assert {key: manifest[key] for key in ("users", "items", "interactions")} == expected
    assert manifest["users_with_tied_test"] == tied
    times: dict[str, list[int]] = {}
    with gzip.open(raw["reviews"], "rt") as lines:
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
    for kind, sha256 in SHA256[name].items():
        assert file_sha256(tmp_path / f"{name}.{kind}") == sha256
    items = read_items(tmp_path, name)
    assert len(items) == expected["items"]
    assert items["categories"].map(len).min() >= 1
    assert (items["title"] == "").sum() == manifest["notes"]["items_without_title"]
    assert manifest["notes"]["items_without_title"] == {"Beauty": 7, "Toys": 59}[name]


@pytest.mark.realdata
def test_real_fingerprint_does_not_depend_on_row_order(tmp_path: Path, raw_dir: Path) -> None:
    raw = real_raw(raw_dir, "Beauty")
    with gzip.open(raw["reviews"], "rt") as file:
        lines = file.read().splitlines()
    shuffled = pd.Series(lines).sample(frac=1, random_state=0).tolist()
    assert shuffled != lines
    write_lines(tmp_path / "raw" / "reviews_Beauty_5.json", shuffled)
    with gzip.open(raw["meta"], "rb") as file:
        (tmp_path / "raw" / "meta_Beauty.json").write_bytes(file.read())
    first = prepare_dataset("Beauty", tmp_path / "one", raw_dir, progress=False)
    second = prepare_dataset("Beauty", tmp_path / "two", tmp_path / "raw", progress=False)
    assert first["split_fingerprint"] == second["split_fingerprint"]
    assert first["files"] == second["files"]


@pytest.mark.realdata
def test_real_files_read_as_any_files_make_the_same_dataset(tmp_path: Path, raw_dir: Path) -> None:
    raw = real_raw(raw_dir, "Beauty")
    by_name = prepare_dataset("Beauty", tmp_path / "Beauty", raw_dir, progress=False)
    settings = PrepareSettings(interactions=str(raw["reviews"]), items=str(raw["meta"]))
    as_files = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert as_files["notes"]["layout"] == "amazon2014"
    same = ("split_fingerprint", "candidate_fingerprint", "users_with_tied_validation", "sources")
    for key in same:
        assert as_files[key] == by_name[key]
    for kind in ("inter", "item"):
        content = (tmp_path / f"Beauty/Beauty.{kind}").read_bytes()
        assert (tmp_path / f"mine/mine.{kind}").read_bytes() == content


@pytest.mark.realdata
def test_the_real_five_core_is_one(raw_dir: Path) -> None:
    reviews = read_reviews(real_raw(raw_dir, "Beauty")["reviews"])
    assert len(k_core(reviews, 5)) == len(reviews)
    assert 0 < len(k_core(reviews, 8)) < len(reviews)
