from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from recbole_hellm.data.preparation.column_roles import Layout
from recbole_hellm.data.preparation.datasets.base import DatasetFamily, RawFile
from recbole_hellm.data.preparation.delimited_text import TextFormat


class Plays(DatasetFamily):
    """Two files without headers that need no reader of their own."""

    name = "plays"
    datasets = {"tiny": {"users": 2}, "small": {}}  # noqa: RUF012
    layout = Layout("plays", user="listener", item="song", time="at", tags_removed=True)

    def files(self, dataset: str) -> Mapping[str, RawFile]:
        plays = RawFile(
            f"{dataset}.dat", text_format=TextFormat(("at", "song", "listener"), separator="::")
        )
        songs = RawFile("songs.txt", text_format=TextFormat(("song", "title"), separator="~"))
        return {"plays": plays} if dataset == "small" else {"plays": plays, "songs": songs}


def test_declared_files_need_no_reader(tmp_path: Path) -> None:
    paths = {"plays": tmp_path / "tiny.dat", "songs": tmp_path / "songs.txt"}
    paths["plays"].write_text("5::s1::ann\n7::s2::bob\n")
    paths["songs"].write_text("s2~<b>Two</b>\ns9~Nine\n")
    frame = Plays().read_interactions("tiny", paths, progress=False)
    assert frame.to_dict("list") == {
        "user_id": ["ann", "bob"],
        "item_id": ["s1", "s2"],
        "timestamp": [5, 7],
    }
    items = Plays().read_items("tiny", paths, {"s1", "s2"}, progress=False)
    assert items is not None
    assert items[["item_id", "title"]].to_numpy().tolist() == [["s2", "Two"]]
    assert Plays().read_items("small", paths, {"s1"}) is None


def test_defaults() -> None:
    family = Plays()
    assert family.folders("tiny") == ("tiny", "")
    assert family.notes("tiny") == {"family": "plays"}
    assert family.summary() == "tiny, small"
    assert family.files("tiny")["plays"].downloaded == "tiny.dat"
    assert RawFile("u.data", "ml.zip").downloaded == "ml.zip"


def test_totals_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Plays().check_totals("tiny", {"users": 2, "items": 7})
        Plays().check_totals("small", {"users": 5})
        assert not caplog.records
        Plays().check_totals("tiny", {"users": 3, "items": 7})
    assert "'tiny' holds 3 users where the published files hold 2 users" in caplog.text
