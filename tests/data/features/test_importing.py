from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from recbole_hellm.cli.main import main
from recbole_hellm.config.resolution import HellmConfig
from recbole_hellm.data.features.feature_files import read_manifest
from recbole_hellm.data.features.importing import (
    Imported,
    ImportSettings,
    dataset_items,
    import_features,
    summary,
)
from recbole_hellm.data.features.row_tokens import read_rows
from recbole_hellm.data.features.store import load_features
from recbole_hellm.data.interactions.dataset import create_dataset
from recbole_hellm.errors import ConfigError, DataError, FeatureError

TOKENS = ["B", "a", "b10", "b9"]  # sorted
TABLE = np.arange(1.0, 9.0).reshape(4, 2)

WRITERS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "t.npy": lambda table, path: np.save(path, table),
    "t.pt": lambda table, path: torch.save(torch.from_numpy(table), path),
    "t.pth": lambda table, path: torch.save({"weight": torch.from_numpy(table)}, path),
    "t.safetensors": lambda table, path: save_file({"x": torch.from_numpy(table)}, path),
}


def write_interactions(folder: Path, tokens: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"u\t{token}\t{time}" for time, token in enumerate([*reversed(tokens), tokens[0]])]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / f"{folder.name}.inter").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_interactions(tmp_path / "shop", TOKENS)


def save(path: Path, table: Any = TABLE) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.asarray(table))
    return path


def run(folder: Path, source: Path, **settings: Any) -> list[Imported]:
    return import_features(folder.name, folder, ImportSettings(features=str(source), **settings))


def stored(folder: Path, name: str = "image-imported", tokens: list[str] = TOKENS) -> list[Any]:
    (features,) = load_features(folder, tokens, [name]).values()
    return features.matrix.tolist()


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_file_by_rank_of_tokens(tmp_path: Path, shop: Path, name: str, padded: bool) -> None:
    WRITERS[name](np.vstack([np.full((1, 2), np.nan), TABLE]) if padded else TABLE, tmp_path / name)
    (found,) = run(shop, tmp_path / name)
    assert found == Imported(shop / "features/image-imported.npy", 4, 2, 0, 0, 0)
    assert stored(shop) == TABLE.tolist()
    manifest = read_manifest(found.path)
    sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert manifest["revision"] == f"sha256:{sha256}"
    assert manifest["missing"] == []
    assert manifest["details"] == {
        "source": {"file": name, "sha256": sha256},
        "rows_by": "rank of the token",
        "tokens": None,
        "not_finite": 0,
        "zeros": 0,
        "dropped": 0,
    }


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("t.txt", "x\nb9\na\nB\nb10\n"),
        ("t.list", "\ufeffx\r\nb9\r\n a \r\nB\r\nb10"),
        ("t.json", '["x", "b9", "a", "B", "b10"]'),
        ("t.csv", "item,row\nB,3\na,2\nb10,4\nb9,1\nx,0\n"),
        ("t.tsv", "asin\titemID\nB\t3\na\t2\nb10\t4\nb9\t1\nx\t0\n"),
        ("swapped.csv", "number;item\n3;B\n2;a\n4;b10\n1;b9\n0;x\n"),
        ("bare.csv", "B,3\na,2\nb10,4\nb9,1\nx,0\n"),
    ],
)
def test_a_file_by_tokens(
    tmp_path: Path, shop: Path, file: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / file).write_text(text)
    table = save(tmp_path / "t.npy", [[9, 9], [4, 4], [2, 2], [1, 1], [3, 3]])
    (found,) = run(shop, table, tokens=str(tmp_path / file), modality="audio", encoder="mine")
    assert found.path == shop / "features/audio-mine.npy"
    assert stored(shop, "audio-mine") == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert found.dropped == 1
    assert "t.npy: 1 rows are of no item of 'shop', and are left out." in caplog.text
    details = read_manifest(found.path)["details"]
    assert details["tokens"]["file"] == file
    assert details["dropped"] == 1


def test_columns_of_numbers_alone(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", "item,row\n7,1\n8,0\n"),
        ("c.csv", "7,1\n8,0\n"),
        ("b.csv", "row,item\n1,7\n0,8\n"),
    ):
        (tmp_path / name).write_text(text)
        assert read_rows(tmp_path / name).of == {"7": 1, "8": 0}


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("t.txt", "B\na\nb9\n", r"t.txt names 3 items, and features=.*t.npy has 4 rows; name one"),
        ("t.txt", "B\na\na\nb9\n", r"1 item tokens for .*t.txt occur more than once \(first: a\)"),
        ("t.txt", "B\n\na\nb9\n", r"the token of row 1 is empty"),
        ("t.json", "{}", r"t.json: its content is wrong"),
        ("t.json", "[1.5]", r"t.json: the token of row 0 is 1.5, and an id is a text or"),
        ("t.json", "[", r"t.json is no JSON \("),
        ("t.csv", "item\nB\n", r"t.csv has 1 columns \(item\); keep two"),
        ("t.csv", "item,row,x\nB,0,1\n", r"t.csv has 3 columns \(item, row, x\); keep two"),
        ("t.csv", "item,row\nB,0\na,one\n", r"no column of row numbers \(row has 'one'\)"),
        ("t.csv", "item,row\n", r"no column of row numbers"),
        ("t.csv", "item,row\nB,0\nB,1\n", r"occur more than once \(first: B\)"),
        ("t.csv", "item,row\nB,0\na,0\n", r"t.csv gives 'B' and 'a' the one row 0; give each"),
        ("t.csv", "item,row\nB,0\na,4\n", r"has 4 rows from 0, and item 'a' has row 4 by .*t.csv"),
        ("t.csv", None, r"t.csv cannot be read \(No such file"),
        ("t.txt", None, r"t.txt cannot be read \(No such file"),
    ],
)
def test_rows_that_cannot_be_told(
    tmp_path: Path, shop: Path, file: str, text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises((DataError, FeatureError), match=sentence) as error:
        run(shop, save(tmp_path / "t.npy"), tokens=str(tmp_path / file))
    assert "\n" not in str(error.value)
    assert not (shop / "features").exists()


def test_tables_that_cannot_be_read(tmp_path: Path, shop: Path) -> None:
    objects = np.array([{}, {}], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    with pytest.raises(DataError, match=r"features=.*o.npy cannot be read as plain tensors"):
        run(shop, tmp_path / "o.npy")
    with pytest.raises(DataError, match="has 3 rows, and 4 items need 4, or 5"):
        run(shop, save(tmp_path / "t.npy", TABLE[:3]))
    with pytest.raises(DataError, match=r"holds a tensor of shape \(8,\)"):
        run(shop, save(tmp_path / "t.npy", TABLE.ravel()))
    with pytest.raises(DataError, match=r"features=.*none.npy cannot be read \(No such file"):
        run(shop, tmp_path / "none.npy")
    (tmp_path / "t.txt").write_text("1")
    with pytest.raises(DataError, match=r"must be a .pt, .npy or .safetensors file"):
        run(shop, tmp_path / "t.txt")


# Rows that are missing ---------------------------------------------------------------------------


def test_items_without_a_row_get_the_mean(
    tmp_path: Path, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "t.txt").write_text("b9\nB\n")
    source = save(tmp_path / "t.npy", [[0.0, 0.0], [1.0, 3.0]])
    with caplog.at_level(logging.WARNING):
        (found,) = run(shop, source, tokens=str(tmp_path / "t.txt"), allow_unmatched=True)
    assert (found.missing, found.zeros, found.dropped) == (2, 1, 0)
    assert (found.counts.read, found.counts.kept) == (2, 2)
    assert stored(shop) == [[1.0, 3.0], [0.5, 1.5], [0.5, 1.5], [0.0, 0.0]]
    assert read_manifest(found.path)["missing"] == ["a", "b10"]
    assert read_manifest(found.path)["details"]["zeros"] == 1
    assert "t.npy: 2 items of 'shop' have no row, and get the mean" in caplog.text
    assert "t.npy: 1 rows are zero throughout" in caplog.text


def test_most_items_without_a_row_are_another_dataset(tmp_path: Path, shop: Path) -> None:
    (tmp_path / "t.txt").write_text("b9\nx\n")
    sentence = r"rows for 1 of .* none for 3 \(such as B, a, b10; it has ids such as x\).*--tokens"
    with pytest.raises(FeatureError, match=sentence + ".*--allow_unmatched"):
        run(shop, save(tmp_path / "t.npy", TABLE[:2]), tokens=str(tmp_path / "t.txt"))
    (tmp_path / "t.txt").write_text("x\ny\n")
    options = {"tokens": str(tmp_path / "t.txt"), "allow_unmatched": True}
    with pytest.raises(FeatureError, match=r"rows for 0 of the 4 items") as caught:
        run(shop, save(tmp_path / "t.npy", TABLE[:2]), **options)
    assert "--allow_unmatched" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_rows_that_are_no_numbers(tmp_path: Path, shop: Path, value: float) -> None:
    table = TABLE.copy()
    table[2, 1] = value
    source = save(tmp_path / "t.npy", table)
    with pytest.raises(
        FeatureError,
        match=r"NaN or infinity in the rows of 1 items \(first: 'b10'\).*--fill_missing",
    ):
        run(shop, source)
    (found,) = run(shop, source, fill_missing=True)
    assert stored(shop)[2] == pytest.approx([11 / 3, 14 / 3])
    manifest = read_manifest(found.path)
    assert (manifest["missing"], manifest["details"]["not_finite"]) == (["b10"], 1)
    # Rows of items that the dataset lacks do not matter.
    (tmp_path / "t.txt").write_text("B\na\nx\nb9\n")
    options = {"tokens": str(tmp_path / "t.txt"), "allow_unmatched": True, "force": True}
    (found,) = run(shop, source, **options)
    assert (found.missing, found.counts.dropped) == (1, {"of no item of the dataset": 1})
    source = save(tmp_path / "t.npy", np.full((4, 2), np.nan))
    with pytest.raises(FeatureError, match="in the rows of all items of 'shop'"):
        run(shop, source, fill_missing=True, force=True)


def test_features_of_the_same_name_are_kept(tmp_path: Path, shop: Path) -> None:
    run(shop, save(tmp_path / "t.npy"))
    source = save(tmp_path / "t.npy", TABLE + 1)
    with pytest.raises(FeatureError, match=r"image-imported.npy is there already; .*--force"):
        run(shop, source)
    assert stored(shop) == TABLE.tolist()
    run(shop, source, encoder="other")
    run(shop, source, force=True)
    assert stored(shop) == (TABLE + 1).tolist() == stored(shop, "image-other")
    # What a killed import left does not stand in the way.
    (shop / "features" / "image-imported.json").unlink()
    run(shop, save(tmp_path / "t.npy"))
    assert stored(shop) == TABLE.tolist()
    with pytest.raises(FeatureError, match=r"Encoder 'a/b' cannot name a feature file"):
        run(shop, source, encoder="a/b")


# Folders -----------------------------------------------------------------------------------------

MAPPING = "asin\titemID\nb9\t0\nx\t1\nB\t2\nb10\t3\na\t4\n"
BY_NUMBER = np.array([[4.0], [9.0], [1.0], [3.0], [2.0]])


def test_a_folder_as_mmrec_writes_it(tmp_path: Path, shop: Path) -> None:
    folder = tmp_path / "mm"
    save(folder / "image_feat.npy", BY_NUMBER)
    save(folder / "text_feat.npy", BY_NUMBER * 10)
    torch.save(torch.from_numpy(BY_NUMBER * 100), folder / "audio_feat.pt")
    (folder / "i_id_mapping.csv").write_text(MAPPING)
    (folder / "feat.npy").write_text("of something else")
    found = run(shop, folder)
    names = [path.path.name for path in found]
    assert names == ["audio-mmrec.npy", "image-mmrec.npy", "text-mmrec.npy"]
    assert {imported.dropped for imported in found} == {1}
    assert stored(shop, "image-mmrec") == [[1], [2], [3], [4]]
    assert stored(shop, "text-mmrec") == [[10], [20], [30], [40]]
    assert stored(shop, "audio-mmrec") == [[100], [200], [300], [400]]
    assert read_manifest(found[0].path)["details"]["rows_by"] == "mapping"
    (only,) = run(shop, folder, modality="text", encoder="mine")
    assert only.path.name == "text-mine.npy"
    # Nothing is imported where something is in the way.
    for path in (found[1].path, found[1].path.with_suffix(".json")):
        path.unlink()
    with pytest.raises(FeatureError, match=r"audio-mmrec.npy is there already"):
        run(shop, folder)
    assert not found[1].path.exists()


def test_a_file_of_a_folder_as_mmrec_writes_it(tmp_path: Path, shop: Path) -> None:
    source = save(tmp_path / "mm/text_feat.npy", BY_NUMBER)
    (tmp_path / "mm/i_id_mapping.csv").write_text(MAPPING)
    (found,) = run(shop, source)
    assert found.path.name == "text-imported.npy"
    assert stored(shop, "text-imported") == [[1], [2], [3], [4]]
    assert run(shop, source, modality="image")[0].path.name == "image-imported.npy"


def test_a_file_of_a_dataset_with_whole_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = ["0", "1", "2", "10"]
    shop = write_interactions(tmp_path / "shop", tokens)
    run(shop, save(tmp_path / "t.npy"))
    assert stored(shop, tokens=sorted(tokens)) == TABLE.tolist()
    assert (
        "taken to be in the order of item tokens sorted as texts; if that is wrong, name"
        in caplog.text
    )


@pytest.mark.parametrize("mapping", [False, True])
def test_a_folder_of_a_dataset_with_whole_numbers(tmp_path: Path, mapping: bool) -> None:
    tokens = [str(number) for number in range(12)]
    shop = write_interactions(tmp_path / "shop", tokens)
    folder = tmp_path / "mm"
    save(folder / "image_feat.npy", np.arange(13.0)[:, None])
    if mapping:  # of tokens that this dataset does not use
        rows = [f"B{number}\t{number}" for number in range(12)]
        (folder / "i_id_mapping.csv").write_text("\n".join(["asin\titemID", *rows]))
    (found,) = run(shop, folder)
    assert stored(shop, "image-mmrec", tokens) == [[number] for number in range(12)]
    assert found.dropped == 1
    assert read_manifest(found.path)["details"]["rows_by"] == "whole numbers"
    save(folder / "image_feat.npy", np.arange(5.0)[:, None])
    with pytest.raises(FeatureError, match="has 5 rows from 0, and item '11' has row 11 by its"):
        run(shop, folder, force=True)


def test_a_folder_that_tells_no_rows(
    tmp_path: Path, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "mm/text_feat.npy")
    run(shop, tmp_path / "mm")
    assert stored(shop, "text-mmrec") == TABLE.tolist()
    assert "No i_id_mapping.csv says which items the rows of" in caplog.text
    (tmp_path / "t.txt").write_text("\n".join(reversed(TOKENS)))
    run(shop, tmp_path / "mm", tokens=str(tmp_path / "t.txt"), force=True)
    assert stored(shop, "text-mmrec") == TABLE[::-1].tolist()


def test_folders_that_cannot_be_imported(tmp_path: Path, shop: Path) -> None:
    folder = tmp_path / "mm"
    folder.mkdir()
    with pytest.raises(FeatureError, match=r"mm has no image_feat.npy, text_feat.npy or the like"):
        run(shop, folder)
    save(folder / "image_feat.npy")
    with pytest.raises(FeatureError, match=r"mm has no text_feat.npy or the like"):
        run(shop, folder, modality="text")
    torch.save(torch.zeros(4, 2), folder / "image_feat.pt")
    with pytest.raises(
        FeatureError, match=r"image_feat.npy and image_feat.pt for the one modality"
    ):
        run(shop, folder)
    (folder / "image_feat.pt").unlink()
    (folder / "i_id_mapping.csv").write_text("asin\titemID\nx\t0\ny\t1\n")
    with pytest.raises(FeatureError, match=r"rows for 0 of the 4 items of 'shop'"):
        run(shop, folder)


# The dataset and the command ---------------------------------------------------------------------


def test_datasets_that_cannot_be_read(tmp_path: Path, shop: Path) -> None:
    assert dataset_items("shop", shop) == TOKENS
    with pytest.raises(DataError, match=r"none.inter does not exist; prepare the dataset 'none'"):
        run(tmp_path / "none", save(tmp_path / "t.npy"))
    (shop / "shop.inter").write_text("user:token\titem:token\nu\ti\n")
    with pytest.raises(DataError, match=r"shop.inter, line 1 names no column item_id"):
        run(shop, save(tmp_path / "t.npy"))
    with pytest.raises(ConfigError, match="import needs features; name them"):
        ImportSettings()


def test_imported_features_are_used(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quick: dict[str, Any],
    interactions: pd.DataFrame,
    make_dataset: Callable[[Path, pd.DataFrame], None],
) -> None:
    folder = tmp_path / "data" / "tiny"
    make_dataset(folder, interactions)
    tokens = sorted(interactions["item_id"].unique())
    order = np.random.default_rng(0).permutation(len(tokens))
    source = tmp_path / "mm"
    save(source / "image_feat.npy", np.eye(len(tokens)))
    rows = [f"{tokens[token]}\t{row}" for row, token in enumerate(order)]
    (source / "i_id_mapping.csv").write_text("\n".join(["asin\titemID", *rows, ""]))
    arguments = ["import", "--dataset=tiny", f"--data_path={folder.parent}"]
    assert main([*arguments, f"--features={source}"]) == 0
    out = capsys.readouterr().out
    counts = f"({len(tokens)} items, {len(tokens)} dimensions; 0 filled, 0 zero, 0 dropped)"
    lines = out.splitlines()
    assert lines[0] == f"Features: {folder / 'features/image-mmrec.npy'} {counts}"
    assert lines[1] == "Rows of image_feat.npy are told apart by: i_id_mapping.csv"
    assert lines[5].split() == ["image_feat.npy", "30", "30", "0"]
    step = shlex.split(lines[-1].removeprefix("Next: recbole-hellm "))
    rest = [f"--{key}={value}" for key, value in quick.items() if key != "data_path"]
    assert main([*step, *rest]) == 0
    options = quick | {"data_path": str(folder.parent), "features": ["image-mmrec"]}
    dataset = create_dataset(HellmConfig("VBPR", "tiny", options))
    matrix = dataset.item_features()["image"].matrix
    row_of = {tokens[token]: row for row, token in enumerate(order)}
    assert matrix.argmax(axis=1).tolist() == [row_of[token] for token in dataset.item_tokens]
    assert main([*arguments, "--features", str(source), "--fil_missing"]) == 2
    assert "did you mean fill_missing?" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "import needs features" in capsys.readouterr().err


def test_a_folder_is_imported_whole_or_not_at_all(tmp_path: Path, shop: Path) -> None:
    folder = tmp_path / "mm"
    save(folder / "image_feat.npy")
    save(folder / "text_feat.npy", TABLE[:3])
    with pytest.raises(DataError, match="has 3 rows, and 4 items need 4"):
        run(shop, folder)
    assert not (shop / "features").exists()


def test_json_of_the_store_is_a_list_of_tokens(tmp_path: Path, shop: Path) -> None:
    run(shop, save(tmp_path / "t.npy"))
    path = shop / "features/image-imported.tokens.json"
    assert json.loads(path.read_text()) == TOKENS
    assert list(read_rows(path).of) == TOKENS


def test_how_rows_are_told_apart_is_said(
    tmp_path: Path, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    imported = run(shop, save(tmp_path / "x.npy"))
    assert "told apart by: order of the item tokens, sorted as texts" in summary(imported, shop)
    assert "padding" not in caplog.text
    run(shop, save(tmp_path / "x.npy", np.ones((5, 2))), force=True)
    assert "the first is taken for padding, though it is not zero; --tokens" in caplog.text
    caplog.clear()
    padded = np.vstack([np.zeros((1, 2)), TABLE])
    run(shop, save(tmp_path / "x.npy", padded), force=True)
    assert "padding" not in caplog.text
