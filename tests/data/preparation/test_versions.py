from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.data.features.store import save_features
from recbole_hellm.data.interactions.splits import interactions_hash
from recbole_hellm.data.preparation.atomic import write_atomic_dataset
from recbole_hellm.data.preparation.manifest import check_files, read_manifest
from recbole_hellm.data.preparation.versions import (
    VERSIONS,
    Replacing,
    content_of,
    differs,
    finished_runs,
    keep_version,
    version_directories,
)
from recbole_hellm.errors import DataError

ROWS = [("a", "x", 1), ("a", "y", 2), ("a", "z", 3), ("b", "x", 4)]


def write(folder: Path, rows: list[tuple[str, str, int]] = ROWS, **options: Any) -> dict[str, Any]:
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    items = pd.DataFrame({"item_id": ["x"], "title": [options.pop("title", "Tea")]})
    return write_atomic_dataset(folder.name, frame, items, folder, [], **options)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write(tmp_path / "shop")
    return tmp_path / "shop"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one finished run on the shop and one that is not."""
    for name in ("BPR/1", "BPR/2"):
        (tmp_path / "runs/shop" / name).mkdir(parents=True)
    (tmp_path / "runs/shop/BPR/1/metrics.json").write_text("{}")
    return tmp_path / "runs"


def test_finished_runs_are_found(tmp_path: Path, runs: Path) -> None:
    assert finished_runs(runs, "shop") == [runs / "shop/BPR/1"]
    assert finished_runs(runs, "other") == finished_runs(tmp_path / "none", "shop") == []


def test_other_data_is_told_from_the_same(shop: Path) -> None:
    contents = {f"shop{end}": (shop / f"shop{end}").read_bytes() for end in (".inter", ".item")}
    assert not differs("shop", shop, contents)
    assert differs("shop", shop, contents | {"shop.item": b""})
    assert differs("shop", shop, {"shop.inter": contents["shop.inter"]})
    (shop / "shop.item").unlink()
    assert differs("shop", shop, contents)
    (shop / "shop.inter").unlink()
    assert not differs("shop", shop, contents)


def test_data_on_which_runs_stand_is_not_replaced(
    shop: Path, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_manifest(shop)
    write(shop, replacing=Replacing(runs_dir=runs))  # the same data
    for change in ({"rows": [*ROWS, ("b", "y", 5)]}, {"title": "Pot"}):
        with pytest.raises(DataError, match=r"1 finished runs stand on it .*--force.*--dataset"):
            write(shop, replacing=Replacing(runs_dir=runs), **change)
        assert read_manifest(shop) == before
    with caplog.at_level(logging.INFO):
        write(shop, [*ROWS, ("b", "y", 5)], replacing=Replacing(True, runs))
    assert f"is kept in {shop / VERSIONS}" in caplog.text
    check_files(shop)
    assert before is not None
    (version,) = version_directories("shop", shop, before["content"])
    check_files(version / "shop")
    assert read_manifest(version / "shop") == before


def test_without_runs_nothing_is_asked_or_kept(shop: Path, tmp_path: Path) -> None:
    write(shop, ROWS[:3], replacing=Replacing(runs_dir=tmp_path / "runs"))
    write(shop, ROWS)
    assert not (shop / VERSIONS).exists()


def test_a_version_has_all_that_a_run_reads(shop: Path) -> None:
    matrix = np.arange(3.0)[:, None]
    save_features(shop, "text", "old", ["x", "y", "z"], matrix)
    (shop / "shop.kg").write_text("head_id:token\n")
    version = keep_version("shop", shop)
    assert version is not None
    assert version == keep_version("shop", shop)  # once only
    kept = version / "shop"
    assert sorted(os.listdir(kept / "features")) == sorted(os.listdir(shop / "features"))
    assert sorted(path.name for path in kept.glob("*.*")) == [
        "manifest.json",
        "shop.inter",
        "shop.item",
        "shop.kg",
    ]
    # What is written later does not change it.
    save_features(shop, "text", "old", ["x", "y", "z"], matrix + 1)
    assert np.array_equal(np.load(kept / "features/text-old.npy"), matrix)
    second = keep_version("shop", shop)
    assert second is not None
    assert second.name == f"{version.name}-2"
    found = version_directories("shop", shop, content_of("shop", shop))
    assert sorted(found) == [version, second]
    assert version_directories("shop", shop, "0" * 64) == found


def test_damaged_data_is_no_version(shop: Path, caplog: pytest.LogCaptureFixture) -> None:
    (shop / "shop.inter").write_text("user_id:token\n")
    assert keep_version("shop", shop) is None
    assert "shop.inter is damaged" in caplog.text
    assert not (shop / VERSIONS).exists()


def test_the_hash_of_earlier_and_of_other_datasets(shop: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=["user_id", "item_id", "timestamp"])
    content = interactions_hash(frame, "user_id", "item_id")
    assert content_of("shop", shop) == content
    (shop / "manifest.json").write_text('{"format_version": 1}')  # without it
    assert content_of("shop", shop) == content
    (shop / "manifest.json").unlink()
    assert len(content_of("shop", shop)) == 64


def test_a_grown_log_leaves_earlier_runs_usable(
    tmp_path: Path,
    interactions: pd.DataFrame,
    quick: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = tmp_path / "log.csv"
    interactions.to_csv(log, index=False)
    where = ["--dataset=shop", f"--data_path={tmp_path}/data"]
    runs = f"--runs_dir={quick['runs_dir']}"
    prepare = ["prepare", *where, f"--interactions={log}", runs]
    assert main(prepare) == 0
    rest = [f"--{key}={value}" for key, value in quick.items() if key != "data_path"]
    assert main(["run", "--model=BPR", *where, *rest]) == 0
    (run,) = finished_runs(Path(quick["runs_dir"]), "shop")
    recommend = ["recommend", f"--run={run}", "--user=u39", "--topk=3"]
    capsys.readouterr()
    assert main(recommend) == 0
    first = capsys.readouterr().out
    assert main(prepare) == 0  # the same data
    grown = [("u39", "new", 2_000_000_000), ("other", "new", 2_000_000_001)]
    pd.concat([interactions, pd.DataFrame(grown, columns=interactions.columns)]).to_csv(
        log, index=False
    )
    assert main(prepare) == 2
    assert "1 finished runs stand on it" in capsys.readouterr().err
    assert main([*prepare, "--force"]) == 0
    capsys.readouterr()
    assert main(recommend) == 0
    assert capsys.readouterr().out == first
    assert main(["run", "--model=BPR", *where, *rest]) == 0
    assert len(finished_runs(Path(quick["runs_dir"]), "shop")) == 2
