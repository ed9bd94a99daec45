from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.data.features.store import save_features
from recbole_hellm.data.interactions.atomic_files import read_items
from recbole_hellm.data.interactions.splits import split_fingerprint
from recbole_hellm.data.preparation import prepare
from recbole_hellm.data.preparation.manifest import read_manifest
from recbole_hellm.data.preparation.prepare import prepare_dataset, prepare_files
from recbole_hellm.data.preparation.settings import PrepareSettings
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
    "{'asin': 'A2', 'title': 'The Big one', 'categories': [['Toys']], 'description': 'x'}",
    "{'asin': 'A1', 'title': \"O'Neil\"}",
]
PLAYS = "u1,a,1\nu1,b,2\nu2,a,3\nu2,b,4\nu3,c,5\n"
FAMILY = """
import pandas as pd

from recbole_hellm.data.preparation.datasets.base import DatasetFamily, RawFile


class Plays(DatasetFamily):
    name = "plays"
    datasets = {"plays": {}}
    k_core = 2

    def files(self, dataset):
        return {"plays": RawFile("plays.csv")}

    def read_items(self, dataset, paths, wanted, progress=True):
        return pd.DataFrame({"item_id": ["a", "c"], "title": ["One", None]})
"""


@pytest.fixture(autouse=True)
def no_raw_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELLM_RAW_DIR", raising=False)


def write_raw(folder: Path) -> Path:
    """Raw files of Toys."""
    folder.mkdir()
    keys = ("reviewerID", "asin", "unixReviewTime")
    reviews = [json.dumps(dict(zip(keys, row, strict=True))) for row in REVIEWS]
    for file, lines in (("reviews_Toys_and_Games_5", reviews), ("meta_Toys_and_Games", META)):
        (folder / f"{file}.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


class Config(dict[str, Any]):
    """As much of a configuration as is read."""

    @property
    def dataset_directory(self) -> Path:
        return Path(self["data_path"]) / self["dataset"]


def config(folder: Path, **overrides: Any) -> Config:
    options = {"raw_dir": None, "mirrors": None}
    return Config(data_path=str(folder.parent), dataset=folder.name, **options | overrides)


def test_unknown_dataset_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare_dataset("Beuty", tmp_path / "Beuty")
    message = str(caught.value)
    assert message.startswith("Unknown dataset 'Beuty' (did you mean Beauty?); use one of sample,")
    for names in ("Toys, Sports", "CATEGORY-2018 such as", "CATEGORY-2023 such as", "ml-100k"):
        assert names in message
    assert str(tmp_path / "Beuty") in message


def test_a_dataset_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = write_raw(tmp_path / "raw")
    with caplog.at_level(logging.INFO):
        manifest = prepare_dataset("Toys", tmp_path / "Toys", raw, progress=False)
    assert (tmp_path / "Toys" / "Toys.inter").read_text().split("\n")[1:] == [
        "U1\tA3\t0\t5",
        "U1\tA1\t1\t10",
        "U1\tA2\t2\t10",
        "U2\tA1\t0\t10",
        "U2\tA3\t1\t20",
        "",
    ]
    assert read_manifest(tmp_path / "Toys") == manifest
    assert manifest["split_fingerprint"] == split_fingerprint(["U1"], ["A1"], ["A2"])
    assert [source["file"] for source in manifest["sources"]] == [
        "reviews_Toys_and_Games_5.json.gz",
        "meta_Toys_and_Games.json.gz",
    ]
    log, meta = manifest["tables"]
    assert (log["read"], log["kept"], log["dropped"]) == (6, 5, {"duplicates": 1})
    assert (meta["read"], meta["kept"]) == (2, 2)
    assert "asin" in meta["columns_taken"]
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
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings[0] == "1 of the 3 items with interactions have no row in the table of items."
    assert warnings[1].startswith("1 users of 'Toys' have fewer than three interactions")
    assert "2 users, 3 items, 5 interactions" in warnings[2]
    assert "19,412 users, 11,924 items, 167,597 interactions" in warnings[2]
    assert "Cite for 'Toys': J. McAuley" in caplog.text
    manifest = prepare_dataset("Toys", tmp_path / "Toys", raw, k_core=1, progress=False)
    assert manifest["notes"]["k_core"] == 1


def test_a_known_dataset_is_made_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: list[Path] = []
    monkeypatch.setattr(
        prepare, "write_sample", lambda directory, replacing: samples.append(directory)
    )
    prepare.ensure_dataset(config(tmp_path / "sample"))
    assert samples == [tmp_path / "sample"]
    toys = tmp_path / "Toys"
    prepare.ensure_dataset(config(toys, raw_dir=str(write_raw(tmp_path / "raw"))))
    assert (toys / "Toys.inter").is_file()
    prepare.ensure_dataset(config(toys, raw_dir="nowhere"))


def test_a_family_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "family_for_prepare.py").write_text(FAMILY)
    (tmp_path / "plays.csv").write_text(f"user,item,time\n{PLAYS}")
    named = {"family": "family_for_prepare:Plays", "raw_dir": str(tmp_path)}
    with pytest.raises(DataError, match=r"1 of the 2 items .* with --allow_unmatched"):
        prepare.prepare("plays", tmp_path / "plays", PrepareSettings(**named), progress=False)
    settings = PrepareSettings(**named, allow_unmatched=True)
    manifest = prepare.prepare("plays", tmp_path / "plays", settings, progress=False)
    assert manifest["interactions"] == 4  # the family's 2-core
    assert manifest["notes"] == {
        "family": "plays",
        "layout": "table",
        "duplicates_dropped": 0,
        "k_core": 2,
        "interactions_before_k_core": 5,
        "items_without_metadata": 1,
        "items_without_title": 1,
        "items_without_brand": 2,
        "items_without_categories": 2,
        "items_without_description": 2,
    }
    assert read_items(tmp_path / "plays", "plays")["title"].tolist() == ["One", ""]
    settings = PrepareSettings(**named, allow_unmatched=True, k_core=0)
    assert prepare.prepare("plays", tmp_path / "plays", settings)["interactions"] == 5
    with pytest.raises(ConfigError, match=r"The family plays has no dataset 'play' \(did you mean"):
        prepare.prepare("play", tmp_path / "play", settings)


def test_missing_raw_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Beauty.*--raw_dir or the environment variable"):
        prepare.ensure_dataset(config(tmp_path / "Beauty", raw_dir=str(tmp_path)))


# Files of one's own -------------------------------------------------------------------------------


def write_files(folder: Path) -> tuple[Path, Path]:
    """Four users with three items each, one stray user, one duplicate row; texts of two items."""
    rows = [f"u{user},i{(user + step) % 4},{step}" for user in range(4) for step in range(3)]
    rows += ["u0,i0,0", "stray,rare,9"]
    (folder / "log.csv").write_text("\n".join(["user,item,time", *rows, ""]))
    items = ["item,title,genres", "i0,Red hat,Hats|Wool", "i1,Blue hat,Hats", "none,Unseen,x", ""]
    (folder / "items.csv").write_text("\n".join(items))
    return folder / "log.csv", folder / "items.csv"


def test_files_of_ones_own(tmp_path: Path) -> None:
    log, items = write_files(tmp_path)
    settings = PrepareSettings(interactions=str(log), items=str(items))
    with pytest.raises(DataError, match=r"3 of the 5 items .*such as i2, i3, rare.*ids such as no"):
        prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert not (tmp_path / "mine").exists()
    settings = settings.replace(allow_unmatched=True)
    manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert read_manifest(tmp_path / "mine") == manifest
    counted = {key: manifest[key] for key in ("users", "items", "interactions")}
    assert counted == {"users": 5, "items": 5, "interactions": 13}
    assert manifest["users_below_three"] == 1
    assert manifest["notes"] == {
        "layout": "table",
        "duplicates_dropped": 1,
        "items_without_metadata": 3,
        "items_without_title": 3,
        "items_without_brand": 5,
        "items_without_categories": 3,
        "items_without_description": 5,
    }
    assert [source["file"] for source in manifest["sources"]] == ["log.csv", "items.csv"]
    assert manifest["tables"] == [
        {
            "file": "log.csv",
            "read": 14,
            "kept": 13,
            "dropped": {"duplicates": 1},
            "columns_taken": ["user", "item", "time"],
            "columns_left": [],
            "notes": ["log.csv: the time goes from 0 to 9."],
        },
        {
            "file": "items.csv",
            "read": 3,
            "kept": 2,
            "dropped": {"of items without interactions": 1},
            "columns_taken": ["item", "title", "genres"],
            "columns_left": [],
            "notes": [],
        },
    ]
    table = read_items(tmp_path / "mine", "mine").set_index("item_id")
    assert table.loc["i0", "categories"] == ["Hats", "Wool"]
    assert table["title"].to_dict()["i1"] == "Blue hat"
    assert set(table.index) == {"i0", "i1", "i2", "i3", "rare"}


def test_features_of_earlier_texts_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, items = write_files(tmp_path)
    settings = PrepareSettings(interactions=str(log), items=str(items), allow_unmatched=True)
    folder = tmp_path / "mine"
    prepare_files("mine", folder, settings, progress=False)
    save_features(folder, "text", "old", ["i0", "i1", "i2", "i3", "rare"], np.ones((5, 1)))
    prepare_files("mine", folder, settings, progress=False)
    assert "item texts" not in caplog.text
    rows = items.read_text().splitlines()
    items.write_text("\n".join([f"{rows[0]},image", *(f"{row},http://x/y" for row in rows[1:])]))
    prepare_files("mine", folder, settings, progress=False)
    assert read_items(folder, "mine")["image"].tolist() == ["http://x/y"] * 2 + [""] * 3
    assert "item texts" not in caplog.text  # addresses are none
    items.write_text("item,title\ni0,Green hat\n")
    prepare_files("mine", folder, settings, progress=False)
    assert "The item texts of 'mine' changed" in caplog.text
    assert "recbole-hellm encode --dataset=mine" in caplog.text


def test_a_k_core_of_ones_own(tmp_path: Path) -> None:
    log, items = write_files(tmp_path)
    settings = PrepareSettings(interactions=str(log), k_core=3)
    manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert (manifest["users"], manifest["items"], manifest["interactions"]) == (4, 4, 12)
    assert manifest["notes"] == {
        "layout": "table",
        "duplicates_dropped": 1,
        "k_core": 3,
        "interactions_before_k_core": 13,
    }
    assert not (tmp_path / "mine" / "mine.item").exists()  # so that nobody encodes empty texts
    with pytest.raises(DataError, match="left in the 4-core"):
        prepare_files(
            "mine",
            tmp_path / "mine",
            PrepareSettings(interactions=str(log), items=str(items), k_core=4),
            progress=False,
        )


def test_an_item_table_of_other_items_is_told(tmp_path: Path) -> None:
    log, items = write_files(tmp_path)
    items.write_text("item,title\nx,Hat\n")
    settings = PrepareSettings(interactions=str(log), items=str(items))
    with pytest.raises(
        DataError, match=r"none of the 5 items with interactions \(ids such as x there, i0"
    ):
        prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["Beauty", "sample", "a/b", "..", "", " ", "a\nb", "a" * 250])
def test_names_that_cannot_be_ones_own(tmp_path: Path, name: str) -> None:
    settings = PrepareSettings(interactions=str(write_files(tmp_path)[0]))
    with pytest.raises(ConfigError, match=r"another name|cannot name a folder"):
        prepare_files(name, tmp_path / "mine", settings)


@pytest.mark.parametrize(("bad", "refused"), [(2, False), (3, True)])
def test_rows_that_are_dropped_are_counted(tmp_path: Path, bad: int, refused: bool) -> None:
    rows = [f"u{row % 5},i{row % 4},{row}" for row in range(20 - bad)]
    rows += [f"u1,,{row}" for row in range(bad)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows, ""]))
    settings = PrepareSettings(interactions=str(tmp_path / "log.csv"))
    if refused:
        sentence = r"3 of the 20 rows of interactions are defective \(3 without item\).*--allow_dro"
        with pytest.raises(DataError, match=sentence):
            prepare_files("mine", tmp_path / "mine", settings, progress=False)
        assert not (tmp_path / "mine").exists()
        settings = settings.replace(allow_dropped=True)
    manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    (log,) = manifest["tables"]
    assert (log["read"], log["kept"], log["dropped"]) == (20, 20 - bad, {"without item": bad})


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,what,when\nu1,a,1\nu1,b,2\nu2,a,3\n")
    rows = ["sku,what,head,title,pic", "a,x,Tea,wrong,a.jpg", "b,y,Pot,wrong,b.jpg", ""]
    (tmp_path / "items.csv").write_text("\n".join(rows))
    options = {
        "interactions": str(tmp_path / "log.csv"),
        "items": str(tmp_path / "items.csv"),
        "user_column": "who",
        "item_column": "what",
        "time_column": "when",
        "items_item_column": "sku",
        "title_column": "head",
        "image_column": "pic",
        "brand_column": "what",
    }
    settings = PrepareSettings(**options)
    manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    table = read_items(tmp_path / "mine", "mine").set_index("item_id")
    assert table.loc["a", ["title", "brand", "image"]].tolist() == ["Tea", "x", "a.jpg"]
    assert manifest["tables"][1]["columns_left"] == ["title"]
    for key, sentence in (
        ("title_column", "no column 'none' .*the column of titles with --title_column"),
        ("items_item_column", "no column 'none' .*the column of items with --items_item_column"),
    ):
        with pytest.raises(DataError, match=sentence):
            prepare_files("mine", tmp_path / "mine", PrepareSettings(**options | {key: "none"}))


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    log, _ = write_files(tmp_path)
    settings = PrepareSettings(interactions=str(log))
    with pytest.raises(DataError, match=r"log\.csv is a file, and a folder must be there"):
        prepare_files("mine", log / "mine", settings)
    with pytest.raises(DataError, match=r"log\.csv is a file, and a folder must be there"):
        prepare_dataset("sample", log)
    with pytest.raises(ConfigError, match=r"cannot name a folder \(.*correct --data_path"):
        prepare_dataset("sample", tmp_path / ("x" * 300) / "sample")


def test_a_k_core_is_not_for_the_sample(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="k_core is not for the sample"):
        prepare_dataset("sample", tmp_path, k_core=7)


def test_files_without_headers(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1::7::5::30\n1::8::3::10\n2::7::1::20\n", encoding="utf-8")
    (tmp_path / "u.item").write_text("8|Ham & Café|Drama\n7|Tea|War\n", encoding="latin-1")
    settings = PrepareSettings(
        interactions=str(tmp_path / "u.data"),
        items=str(tmp_path / "u.item"),
        columns=("user", "item", "rating", "time"),
        separator="::",
        item_columns="item,title,genres",
        encoding="latin-1",
    )
    manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert (tmp_path / "mine/mine.inter").read_text().splitlines()[1:] == [
        "1\t8\t0\t10",
        "1\t7\t1\t30",
        "2\t7\t0\t20",
    ]
    assert read_items(tmp_path / "mine", "mine")["title"].tolist() == ["Tea", "Ham & Café"]
    assert manifest["notes"]["layout"] == "table"
    for columns in ({}, {"user_column": "1", "item_column": "7", "time_column": "30"}):
        settings = PrepareSettings(interactions=str(tmp_path / "u.data"), separator="::", **columns)
        with pytest.raises(DataError, match=r"u\.data, line 1 looks like data.* --columns='"):
            prepare_files("mine", tmp_path / "mine", settings, progress=False)


def test_layouts_of_ones_own_files(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw")
    reviews, meta = (
        str(raw / f"{file}.json.gz") for file in ("reviews_Toys_and_Games_5", "meta_Toys_and_Games")
    )
    for options in ({}, {"layout": "amazon2014"}):
        settings = PrepareSettings(
            interactions=reviews, items=meta, allow_unmatched=True, **options
        )
        manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
        assert manifest["notes"]["layout"] == "amazon2014"
        assert read_items(tmp_path / "mine", "mine")["title"].tolist() == [
            "O'Neil",
            "The Big one",
            "",
        ]
    settings = PrepareSettings(interactions=reviews, layout="table")
    manifest = prepare_files("mine", tmp_path / "mine", settings, progress=False)
    assert manifest["notes"]["layout"] == "table"
    settings = PrepareSettings(interactions=reviews, layout="amazon")
    with pytest.raises(ConfigError, match="layout='amazon' is not allowed; use one of auto, table"):
        prepare_files("mine", tmp_path / "mine", settings, progress=False)


@pytest.mark.parametrize(
    ("option", "separator"), [("\\t", "\t"), ("::", "::"), ("|", "|"), (",", ",")]
)
def test_the_command_takes_any_separator(
    tmp_path: Path, option: str, separator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["1#no#5#30", "1#8#3#10", "2#no#1#20"]  # 'no' is a name, not YAML's false
    (tmp_path / "u.data").write_text("\n".join(rows).replace("#", separator))
    (tmp_path / "u.item").write_text("no~Tea\n8~Ham")
    options = [f"--data_path={tmp_path}", f"--interactions={tmp_path}/u.data", "--dataset=ud"]
    options += ["--columns=[user, item, yes, time]", f"--separator={option}"]
    items = [f"--items={tmp_path}/u.item", "--item_columns=[item, title]", "--item_separator=~"]
    assert main(["prepare", *options, *items, "--encoding=latin-1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["ud", "2", "2", "3"]
    assert read_items(tmp_path / "ud", "ud")["title"].tolist() == ["Ham", "Tea"]


def test_items_without_any_text_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"u{user},i{item},{user + item}" for user in range(3) for item in range(25)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]))
    (tmp_path / "items.csv").write_text("\n".join(["item,what", *(f"i{n},x" for n in range(25))]))
    files = [f"--interactions={tmp_path / 'log.csv'}", f"--items={tmp_path / 'items.csv'}"]
    options = ["prepare", "--dataset=bare", f"--data_path={tmp_path}", *files]
    assert main(options) == 0
    assert "No item of 'bare' has a text" in caplog.text
    out = capsys.readouterr().out
    assert "Items without a title: 25 (100.0 %)" in out
    assert "--model=SASRec" in out
    assert main([*options, "--title_column=what"]) == 0
    assert "--model=HeLLM" in capsys.readouterr().out


def test_utf8_under_the_name_of_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("user,item,time\nJürgen,é,1\nJürgen,b,2\nann,é,3\n")
    (tmp_path / "items").write_text("item,title\né,Café\nb,Tea\n", encoding="cp1252")
    files = {"interactions": str(tmp_path / "log"), "items": str(tmp_path / "items")}
    with pytest.raises(DataError, match=r"log is encoded in UTF-8, not in cp1252, .*item_encoding"):
        prepare.prepare("own", tmp_path / "own", PrepareSettings(**files, encoding="cp1252"))
    settings = PrepareSettings(**files, item_encoding="cp1252")
    prepare.prepare("own", tmp_path / "own", settings)
    assert read_items(tmp_path / "own", "own")["title"].tolist() == ["Tea", "Café"]


def test_files_that_prepare_did_not_make_are_not_replaced_unasked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "own"
    folder.mkdir()
    header = "user_id:token\titem_id:token\ttimestamp:float\trating:float\n"
    (folder / "own.inter").write_text(header + "a\tx\t1\t5\na\ty\t2\t4\n")
    (folder / "own.item").write_text("item_id:token\ttitle:token_seq\nx\tTea\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    files = {"interactions": str(folder / "own.inter"), "runs_dir": str(tmp_path / "runs")}
    with pytest.raises(DataError, match=r"own holds files that prepare did not make; .*--force"):
        prepare.prepare("own", folder, PrepareSettings(**files))
    assert {name: (folder / name).read_bytes() for name in before} == before
    prepare.prepare("own", folder, PrepareSettings(**files, force=True))
    (version,) = (folder / "versions").iterdir()
    assert {name: (version / "own" / name).read_bytes() for name in before} == before
    assert f"The earlier data of 'own' is kept in {version}." in caplog.text
    prepare.prepare("own", folder, PrepareSettings(**files))  # its own files
