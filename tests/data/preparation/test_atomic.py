from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_hellm.data.interactions.atomic_files import AtomicSettings, read_items
from recbole_hellm.data.interactions.splits import (
    candidate_fingerprint,
    histories_hash,
    split_fingerprint,
)
from recbole_hellm.data.preparation import atomic
from recbole_hellm.data.preparation.atomic import write_atomic_dataset
from recbole_hellm.data.preparation.manifest import check_files, describe_source, read_manifest
from recbole_hellm.errors import DataError, StorageError
from recbole_hellm.storage.locks import locked

ROWS = [  # user, item, time; user a's last two are tied, b is short, c's order is by time
    ("a", "i3", 200),
    ("a", "i2", 200),
    ("a", "i9", 100),
    ("b", "i2", 50),
    ("b", "i1", 50),
    ("c", "i1", 30),
    ("c", "i3", 20),
    ("c", "i2", 10),
]
ITEMS = pd.DataFrame(
    {
        "item_id": ["i3", "i2", "i1", "i7"],
        "title": ['"Best" 5" doll\tred\nhat', None, "  Plain \r\n words\u2028here ", "unseen"],
        "brand": [float("nan"), "NA", '"Q"', "x"],
        "categories": [["Toys & Games", "Dress  Up"], None, [], ["Unseen"]],
        "price": [1.0, 2.0, 3.0, 4.0],
    }
)


def write(directory: Path, rows: list[tuple[str, str, int]] = ROWS, **options: Any) -> dict:
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    settings = {"items": ITEMS, "directory": directory, "sources": [], "name": "demo", **options}
    return write_atomic_dataset(interactions=frame, **settings)


def test_interactions_are_written_in_canonical_order(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "demo.inter").read_bytes().decode().split("\n") == [
        "user_id:token\titem_id:token\tposition:float\ttimestamp:float",
        "a\ti9\t0\t100",
        "a\ti2\t1\t200",
        "a\ti3\t2\t200",
        "b\ti1\t0\t50",
        "b\ti2\t1\t50",
        "c\ti2\t0\t10",
        "c\ti3\t1\t20",
        "c\ti1\t2\t30",
        "",
    ]


def test_items_are_written_as_words(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "demo.item").read_bytes().decode("utf-8").split("\n") == [
        "item_id:token\ttitle:token_seq\tbrand:token\tcategories:token_seq\tdescription:token_seq",
        'i1\tPlain words here\t "Q"\t\t',
        "i2\t\tNA\t\t",
        'i3\t "Best" 5" doll red hat\t\tToys_&_Games Dress_Up\t',
        "i9\t\t\t\t",
        "",
    ]


def test_items_are_read_back(tmp_path: Path) -> None:
    write(tmp_path)
    items = read_items(tmp_path, "demo")
    assert items.to_dict("list") == {
        "item_id": ["i1", "i2", "i3", "i9"],
        "title": ["Plain words here", "", '"Best" 5" doll red hat', ""],
        "brand": ['"Q"', "NA", "", ""],
        "categories": [[], [], ["Toys & Games", "Dress Up"], []],
        "description": ["", "", "", ""],
    }


def test_a_reader_that_honours_quotes_reads_the_same_words(tmp_path: Path) -> None:
    """RecBole reads with quoting on (dataset.py:486)."""
    write(tmp_path)
    frame = pd.read_csv(tmp_path / "demo.item", delimiter="\t", dtype=str, engine="python")
    assert frame["item_id:token"].tolist() == ["i1", "i2", "i3", "i9"]
    words = list(filter(None, frame["title:token_seq"][2].split(" ")))
    assert words == ['"Best"', '5"', "doll", "red", "hat"]


def test_manifest_counts_and_fingerprints(tmp_path: Path) -> None:
    source = tmp_path / "raw.txt"
    source.write_bytes(b"raw")
    manifest = write(tmp_path, sources=[describe_source(source)], notes={"seed": 1})
    inter = (tmp_path / "demo.inter").read_bytes()
    assert manifest["files"]["demo.inter"] == hashlib.sha256(inter).hexdigest()
    assert list(manifest.pop("files")) == ["demo.inter", "demo.item"]
    assert len(manifest.pop("checksum")) == 64
    assert manifest == {
        "format_version": 1,
        "name": "demo",
        "users": 3,
        "items": 4,
        "interactions": 8,
        "density": 8 / 12,
        "sparsity": 1 - 8 / 12,
        "users_below_three": 1,
        "longest_history": 3,
        "users_with_tied_test": 1,  # a; b is tied as well and has no test item
        "users_with_tied_validation": 1,
        "split_fingerprint": split_fingerprint(["a", "c"], ["i2", "i3"], ["i3", "i1"]),
        "candidate_fingerprint": candidate_fingerprint(["i1", "i2", "i3", "i9"]),
        "content": histories_hash(
            [["a", "i9", "i2", "i3"], ["b", "i1", "i2"], ["c", "i2", "i3", "i1"]]
        ),
        "tables": [],
        "sources": [{"file": "raw.txt", "bytes": 3, "sha256": hashlib.sha256(b"raw").hexdigest()}],
        "notes": {"seed": 1},
    }


def test_manifest_is_read_back(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert write(tmp_path) == read_manifest(tmp_path)


def test_files_do_not_depend_on_row_order(tmp_path: Path) -> None:
    first = write(tmp_path / "one")
    second = write(tmp_path / "two", rows=ROWS[::-1], items=ITEMS[::-1])
    assert first == second
    assert sorted(os.listdir(tmp_path / "one")) == ["demo.inter", "demo.item", "manifest.json"]


def test_a_crash_leaves_what_the_manifest_does_not_vouch_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    real = os.replace

    def fail_on_items(source: Path, target: Path) -> None:
        if Path(target).suffix == ".item":
            raise OSError("disk gone")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_on_items)
    with pytest.raises(OSError, match="disk gone"):
        write(tmp_path, rows=ROWS[:3])
    assert sorted(os.listdir(tmp_path)) == ["demo.inter", "demo.item", "manifest.json"]
    with pytest.raises(DataError, match=r"demo\.item is damaged"):
        check_files(tmp_path)
    monkeypatch.undo()
    write(tmp_path, rows=ROWS[:3])
    check_files(tmp_path)


def test_of_two_writers_one_waits_or_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_PATIENCE", 0.1)
    sentence = "Another process is writing the dataset in"
    with (
        locked(tmp_path / ".prepare.lock", DataError("busy")),
        pytest.raises(DataError, match=sentence),
    ):
        write(tmp_path)
    assert os.listdir(tmp_path) == []
    write(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "nowhere/else")
    with pytest.raises(StorageError, match=r"demo cannot be made \(.*correct --data_path"):
        write(tmp_path / "data/demo")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        write(tmp_path / "closed/demo")


def test_a_refused_dataset_keeps_the_old_files(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    with pytest.raises(DataError, match="user_id 'x\\\\ty'"):
        write(tmp_path, rows=[("x\ty", "i1", 1)])
    assert read_manifest(tmp_path) == manifest
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("token", ["", "  ", "a\nb", "a\rb", "a\tb", "a\0b"])
def test_tokens_that_would_break_the_file(tmp_path: Path, token: str) -> None:
    with pytest.raises(DataError, match="item_id"):
        write(tmp_path, rows=[("u", token, 1)])


def test_texts_that_utf8_cannot_hold(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": ["i1"], "title": pd.Series(["x\ud800y\0z"], dtype=object)})
    write(tmp_path, items=items)
    assert read_items(tmp_path, "demo")["title"][0] == "x?y z"


def test_escapes_do_not_reach_the_file(tmp_path: Path) -> None:
    title = "\x1b]0;owned\x07Red\x1b[31m hat\x9b2J\u202e"
    items = pd.DataFrame({"item_id": ["i1"], "title": [title], "categories": [["a\x1b[0m b"]]})
    write(tmp_path, items=items)
    table = read_items(tmp_path, "demo")
    assert (table["title"][0].split()[:2], table["categories"][0]) == (["Red", "hat"], ["a b"])
    assert not set((tmp_path / "demo.item").read_text()) & set("\x1b\x07\x9b\u202e")


def test_input_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'demo' has no interactions"):
        write(tmp_path, rows=[])
    with pytest.raises(DataError, match="'i2' has two rows"):
        write(tmp_path, items=pd.DataFrame({"item_id": ["i1", "i2", "i2"]}))
    with pytest.raises(DataError, match="no column 'item_id'"):
        write(tmp_path, items=pd.DataFrame({"title": ["x"]}))
    assert os.listdir(tmp_path) == []


def test_items_of_another_atomic_dataset(tmp_path: Path) -> None:
    (tmp_path / "ml.item").write_text(
        "movie:token\tmovie_title:token_seq\tyear:float\tclass:token_seq\n"
        '1\t"Toy Story\t1995\tAnimation Sci_Fi\n'
        "007\tnull\t\t\n",
        encoding="utf-8",
    )
    items = read_items(tmp_path, "ml", settings=AtomicSettings(ITEM_ID_FIELD="movie"))
    assert items.to_dict("list") == {
        "item_id": ["1", "007"],
        "movie_title": ['"Toy Story', "null"],
        "class": ["Animation Sci_Fi", ""],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"movie:token\n1\n", "line 1.*'item_id:token'"),
        (b"item_id:token\titem_id:token\n1\t2\n", "'item_id' is named twice"),
        (b"item_id:token\ttitle:token_seq\n1\tx\ty\n", "line 2 has 3 cells"),
        (b"item_id:token\ttitle:token_seq\n1\tx\n1\tx\ty\n", "line 3 has 3 cells"),
        (b"item_id:token\ttitle:token_seq\n1\t\xff\n", "not encoded in utf-8"),
        (b"", "is empty"),
    ],
)
def test_unusable_item_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.item").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_items(tmp_path, "x")


def test_absent_item_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.item does not exist"):
        read_items(tmp_path, "x")


def test_pictures_and_absent_tables(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": ["i1", "i2"], "image": ["http://x/1.jpg", None]})
    write(tmp_path, items=items)
    lines = (tmp_path / "demo.item").read_text().split("\n")
    assert lines[0].endswith("description:token_seq\timage:token")
    assert [line.split("\t")[-1] for line in lines[1:3]] == ["http://x/1.jpg", ""]
    assert read_items(tmp_path, "demo")["image"].tolist()[:2] == ["http://x/1.jpg", ""]
    write(tmp_path, items=pd.DataFrame({"item_id": ["i1"], "image": [""]}))
    assert "image" not in (tmp_path / "demo.item").read_text()
    frame = pd.DataFrame({"user_id": ["a"], "item_id": ["b"], "timestamp": [1]})
    manifest = write_atomic_dataset("demo", frame, None, tmp_path, [])
    assert list(manifest["files"]) == ["demo.inter"]
    assert not (tmp_path / "demo.item").exists()
