from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import pytest

from recbole_hellm.data.interactions.atomic_files import read_items
from recbole_hellm.data.preparation.datasets.movielens import MovieLens
from recbole_hellm.data.preparation.prepare import prepare_dataset

FLAGS = {"unknown": 0, "Action": 1, "Animation": 3, "Children's": 4, "Comedy": 5, "Western": 18}


def u_item(movie: int, title: str, *genres: str) -> str:
    flags = ["0"] * 19
    for genre in genres:
        flags[FLAGS[genre]] = "1"
    return "|".join([str(movie), title, "01-Jan-1995", "", "http://x", *flags])


# The rows of every layout: users 1 and 2, movies 10 and 20, and a movie that nobody rated.
RAW = {
    "ml-100k": {
        "u.data": "1\t10\t5\t300\n1\t20\t3\t100\n2\t10\t1\t200\n",
        "u.item": "\n".join(
            [
                u_item(10, "Toy Story (1995)", "Animation", "Children's", "Comedy"),
                u_item(20, '"Été" (1996)', "unknown"),
                u_item(30, "Unrated (1997)", "Western"),
            ]
        ),
    },
    "ml-1m": {
        "ratings.dat": "1::10::5::300\n1::20::3::100\n2::10::1::200\n",
        "movies.dat": "10::Toy Story (1995)::Animation|Children's|Comedy\n"
        '20::"Été" (1996)::\n30::Unrated (1997)::Western\n',
    },
    "ml-20m": {
        "ratings.csv": "userId,movieId,rating,timestamp\n"
        "1,10,5.0,300\n1,20,3.5,100\n2,10,1.0,200\n",
        "movies.csv": "movieId,title,genres\n10,Toy Story (1995),Animation|Children's|Comedy\n"
        '20,"""Été"" (1996)",(no genres listed)\n30,"Unrated, The (1997)",Western\n',
    },
}


def content(name: str, file: str) -> bytes:
    return RAW[name][file].encode("utf-8" if file.endswith(".csv") else "latin-1")


@pytest.fixture(autouse=True)
def no_raw_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELLM_RAW_DIR", raising=False)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", RAW)
def test_every_layout(
    tmp_path: Path, name: str, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    if packed:
        with zipfile.ZipFile(raw / f"{name}.zip", "w") as archive:
            for file in RAW[name]:
                archive.writestr(f"{name}/{file}", content(name, file))
    else:
        for file in RAW[name]:
            (raw / file).write_bytes(content(name, file))
    with caplog.at_level(logging.WARNING):
        manifest = prepare_dataset(name, tmp_path / name, raw, progress=False)
    assert (tmp_path / name / f"{name}.inter").read_text().splitlines()[1:] == [
        "1\t20\t0\t100",
        "1\t10\t1\t300",
        "2\t10\t0\t200",
    ]
    items = read_items(tmp_path / name, name)
    assert items["item_id"].tolist() == ["10", "20"]
    assert items["title"].tolist() == ["Toy Story (1995)", '"Été" (1996)']
    assert items["categories"].tolist() == [["Animation", "Children's", "Comedy"], []]
    sources = [source["file"] for source in manifest["sources"]]
    assert sources == ([f"{name}.zip"] if packed else list(RAW[name]))
    assert manifest["notes"]["family"] == "movielens"
    assert manifest["notes"]["items_without_metadata"] == 0
    assert manifest["notes"]["items_without_categories"] == 1
    totals = MovieLens.datasets[name]
    assert f"{totals['interactions']:,} interactions" in caplog.text


def test_addresses() -> None:
    for name in RAW:
        files = MovieLens().files(name)
        assert list(files) == ["ratings", "movies"]
        for file in files.values():
            assert file.downloaded == f"{name}.zip"
            assert file.addresses[0].startswith("https://files.grouplens.org/")


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m"])
def test_copies_in_utf8_are_read(tmp_path: Path, name: str) -> None:
    for file, text in RAW[name].items():
        (tmp_path / file).write_text(text)
    prepare_dataset(name, tmp_path / name, tmp_path, progress=False)
    assert '"Été" (1996)' in read_items(tmp_path / name, name)["title"].tolist()
