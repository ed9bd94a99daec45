from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

import pytest

from recbole_hellm.data.features import item_metadata as module
from recbole_hellm.data.features.item_metadata import ItemMetadata, file_stem
from recbole_hellm.errors import DataError

PNG, JPEG = b"\x89PNG\r\n\x1a\n" + bytes(20), b"\xff\xd8\xff" + bytes(20)


def test_texts_and_pictures_of_items(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    rows = [
        "item_id:token\ttitle:token_seq\tcategories:token_seq\timage:token",
        "a\tRed Kettle\tHome Small_Kettles\t",
        "b\t\t\tpics/b.bin",
        "c\tC\tHome\thttps://example.org/c.jpg",
        "d\tD\tHome\t../outside.png",
        "e\tE\tHome\t",
    ]
    (folder / "shop.item").write_text("\n".join(rows) + "\n")
    (folder / "pics").mkdir()
    (folder / "pics/b.bin").write_bytes(JPEG)
    (folder / "images/a.jpg").write_bytes(PNG)  # the content counts
    (folder / "images/e.jpg").write_text("<svg onload=alert(1)>")
    (tmp_path / "outside.png").write_bytes(PNG)
    found = ItemMetadata.read(folder, "shop")
    assert found.describe(["a", "b", "x"]).to_numpy().tolist() == [
        ["a", "Red Kettle", "Home > Small Kettles"],
        ["b", "", ""],
        ["x", "", ""],
    ]
    pictures = {token: found.picture(token) for token in "abcde"}
    assert pictures["a"] is not None and pictures["a"].kind == "image/png"
    assert pictures["b"] is not None and pictures["b"].path == folder / "pics/b.bin"
    assert [pictures[token] for token in "cde"] == [None, None, None]
    (tmp_path / "more").mkdir()
    (tmp_path / "more/c.webp").write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    other = ItemMetadata.read(folder, "shop", images=tmp_path / "more")
    picture = other.picture("c")
    assert picture is not None and picture.kind == "image/webp"
    assert other.picture("a") == pictures["a"]
    # A table may name whole paths; they count within the folder that is given.
    whole = ItemMetadata({}, {}, (tmp_path / "more",), {"c": str(tmp_path / "more/c.webp")})
    assert whole.picture("c") == picture
    outside = ItemMetadata({}, {}, (tmp_path / "more",), {"d": str(tmp_path / "outside.png")})
    assert outside.picture("d") is None


AWKWARD = [
    "a/b",
    "a%2Fb",
    "../a",
    ".",
    "..",
    ".a",
    "a.",
    "a ",
    " a",
    'a"b',
    "a:b",
    "é日",
    "a\\b",
    "%",
]


def test_files_of_tokens_that_are_no_file_names(tmp_path: Path) -> None:
    stems = [file_stem(token) for token in AWKWARD]
    assert len(set(stems)) == len(AWKWARD)
    assert [unquote(stem) for stem in stems] == AWKWARD
    for number, stem in enumerate(stems):
        (tmp_path / f"{stem}.png").write_bytes(PNG + bytes([number]))
    metadata = ItemMetadata({}, {}, (tmp_path,))
    for number, token in enumerate(AWKWARD):
        picture = metadata.picture(token)
        assert picture is not None and picture.path.read_bytes() == PNG + bytes([number])
    (tmp_path / "x:y.png").write_bytes(PNG)  # as people name files where they may
    assert metadata.picture("x:y") is None  # it came after the folder was listed
    metadata.refresh()
    assert metadata.picture("x:y") is not None
    assert metadata.picture("n" * 300) is None
    inner = tmp_path / "inner"
    (inner / "x").mkdir(parents=True)
    (inner / "x/y.png").write_bytes(PNG)
    below = ItemMetadata({}, {}, (inner,))
    assert below.picture("x/y") is not None
    (tmp_path / "y.png").write_bytes(PNG)
    tokens = ("../y", f"{tmp_path}/y", "/x/y", "x/../../y", "y")
    assert [below.picture(token) for token in tokens] == [None] * 5


def test_pictures_that_come_later_are_found(tmp_path: Path) -> None:
    metadata = ItemMetadata({}, {}, (tmp_path / "images", tmp_path))
    assert metadata.picture("new") is None
    (tmp_path / "images").mkdir()
    (tmp_path / "images/new.jpg").write_bytes(JPEG)
    assert ItemMetadata({}, {}, (tmp_path / "images", tmp_path)).picture("new") is not None
    metadata.refresh()
    assert metadata.picture("new") is not None
    (tmp_path / "images/new.jpg").unlink()
    assert metadata.picture("new") is None
    assert metadata.file("new") is None


def test_links_and_capitals(tmp_path: Path) -> None:
    away, folder = tmp_path / "shop/away", tmp_path / "shop/images"
    away.mkdir(parents=True)
    folder.mkdir()
    (away / "1.bin").write_bytes(JPEG)
    (away / "deep").mkdir()
    (away / "deep/c.jpg").write_bytes(JPEG)
    (folder / "a.jpg").symlink_to(away / "1.bin")
    (folder / "b.JPG").write_bytes(JPEG)
    (folder / "c").symlink_to(away / "deep")
    (folder / "d.png").symlink_to(tmp_path / "gone.png")
    (folder / "e.Png").write_bytes(PNG)
    (folder / "e.jpeg").write_bytes(JPEG)
    named = {"f": "c/c.jpg", "g": "../../away/1.bin", "h": str(tmp_path / "1.bin"), "i": "\0.jpg"}
    metadata = ItemMetadata({}, {}, (folder, folder.parent), named)
    found = {token: metadata.picture(token) for token in "abcdefghi"}
    paths = {token: picture.path for token, picture in found.items() if picture}
    assert paths == {
        "a": folder / "a.jpg",
        "b": folder / "b.JPG",
        "e": folder / "e.jpeg",
        "f": folder / "c/c.jpg",
    }
    assert [metadata.file(token) for token in "dghi"] == [None] * 4
    assert [metadata.leads_out(token) for token in "abcdefghi"] == [
        *(False, False, False, True, False, False, True, True, False)
    ]


def test_links_stay_in_the_folders(tmp_path: Path) -> None:
    (tmp_path / "pool/deep").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (tmp_path / "pool/deep/1.jpg").write_bytes(JPEG)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/images").symlink_to(tmp_path / "pool")  # pictures may be elsewhere
    (tmp_path / "pool/a.jpg").symlink_to("deep/1.jpg")
    (tmp_path / "pool/b.jpg").symlink_to("../secret.jpg")
    (tmp_path / "pool/out").symlink_to(tmp_path)
    (tmp_path / "shop/c.jpg").write_bytes(JPEG)
    (tmp_path / "pool/c.jpg").symlink_to(tmp_path / "shop/c.jpg")  # another of the folders
    (tmp_path / "pool/e.jpg").symlink_to("e.jpg")
    folders = (tmp_path / "shop/images", tmp_path / "shop")
    metadata = ItemMetadata({}, {}, folders, {"d": "out/secret.jpg"})
    assert [metadata.picture(token) is not None for token in "abcde"] == [
        *(True, False, True, False, False)
    ]
    assert [metadata.file(token) for token in "bd"] == [None, None]
    assert [metadata.leads_out(token) for token in "abcde"] == [False, True, False, True, False]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").mkdir()
    metadata = ItemMetadata({}, {}, (tmp_path,))
    assert [metadata.picture(token) for token in "ab"] == [None, None]
    assert metadata.file("a") == tmp_path / "a.jpg"  # in place of a picture


def test_a_folder_is_looked_into_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(JPEG)
    listed: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(module.os, "scandir", lambda path: listed.append(path) or scandir(path))
    metadata = ItemMetadata({}, {}, (tmp_path / "more", tmp_path / "images", tmp_path))
    assert [n for n in range(100) if metadata.file(str(n))] == [1]
    assert listed == [tmp_path / "more", tmp_path / "images"]


def test_a_dataset_without_an_item_table_has_an_empty_showcase(tmp_path: Path) -> None:
    found = ItemMetadata.read(tmp_path, "shop")
    assert (found.title("a"), found.category("a"), found.picture("a")) == ("", "", None)
    (tmp_path / "shop.item").write_text("token:token\nx\n")
    with pytest.raises(DataError, match="line 1: the header must name 'item_id:token'"):
        ItemMetadata.read(tmp_path, "shop")
