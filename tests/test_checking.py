from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.checking import check
from recbole_hellm.errors import ConfigError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.storage.checksums import file_sha256

RECORDS = Path(__file__).parents[1] / "docs/records"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "runs/tiny/BPR/0123")
    directory.write_json("identity.json", {"a": 1})
    directory.write_text("model/items.json", "[]")
    numbers = dict.fromkeys(("users", "items", "seed", "best_epoch", "epochs"), 3)
    texts = {"model": "BPR", "dataset": "tiny", "split": "s", "candidates": "c"}
    metrics = {"seen": {"ndcg@10": 0.5}}
    parts = {"masking": "seen", "valid": metrics, "test": metrics, "cost": {}, "stages": {}}
    directory.write_record({**numbers, **texts, **parts})
    return directory


def test_whole_files_are_counted(run: RunDirectory, tmp_path: Path) -> None:
    found = check([tmp_path])
    assert (found.folders, found.damaged, found.unchecked) == (1, [], [])
    assert str(found).endswith(": 0 damaged files, 0 without checksums.")


def test_each_damaged_file_has_a_line(run: RunDirectory, tmp_path: Path) -> None:
    run.file("identity.json").write_text("{}")
    run.file("model/items.json").unlink()
    shutil.copytree(run.path, run.path.with_name("4567"))
    RunDirectory(run.path.with_name("4567")).file("metrics.json").write_text("{")
    lines = str(check([tmp_path / "runs"])).splitlines()
    assert [line.split(" is ")[0] for line in lines[:3]] == [
        str(run.file("identity.json")),
        str(run.file("model/items.json")),
        str(run.path.with_name("4567") / "metrics.json"),
    ]
    assert lines[3] == (
        "2 runs, records, features and datasets: 3 damaged files, 0 without checksums."
    )


def test_kept_records_are_whole() -> None:
    found = check([RECORDS])
    assert found.folders > 100
    assert not found.damaged
    assert not found.unchecked


def test_records_have_a_way_out_of_their_own(tmp_path: Path) -> None:
    source = next(RECORDS.glob("*/*/*/ranks.parquet")).parent
    record = tmp_path / "0123"
    shutil.copytree(source, record)
    (record / "config.yaml").write_text("")
    (line,) = check([record]).damaged
    assert "take its folder out" in line
    path = record / "metrics.json"
    content = json.loads(path.read_text())
    del content["files"], content["checksum"]  # as an earlier version wrote it
    path.write_text(json.dumps(content))
    assert check([record]).unchecked == [record]
    path.unlink()
    (line,) = check([record]).damaged
    assert line.startswith(f"{path} is missing, ") and "take its folder out" in line


def test_a_record_of_an_earlier_version_is_read(run: RunDirectory) -> None:
    run.write_json("metrics.json", {"model": "BPR"})
    (line,) = check([run.path]).damaged
    assert "metrics.json: dataset is wrong" in line


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_checkpoints_of_unfinished_runs_are_checked(tmp_path: Path, name: str) -> None:
    run = RunDirectory(tmp_path / "0123")
    for path in (run.last_checkpoint, run.best_checkpoint):
        run.save_checkpoint(path, {"epoch": 1})
    assert not check([tmp_path]).damaged
    (run.path / "ranks-seen.parquet").touch()
    (line,) = check([tmp_path]).damaged
    assert line.startswith(f"{run.path}/metrics.json is missing, though the results")
    (run.path / "ranks-seen.parquet").unlink()
    content = bytearray(run.file(name).read_bytes())
    content[200] ^= 1
    run.file(name).write_bytes(content)
    (line,) = check([tmp_path]).damaged
    assert f"{name} is damaged (its checksum differs)" in line


@pytest.mark.parametrize("listed", [dict, list])
def test_files_of_a_dataset_are_checked(tmp_path: Path, listed: type) -> None:
    path = tmp_path / "tiny/tiny.inter"
    path.parent.mkdir()
    path.write_text("user_id:token\titem_id:token\n")
    files: Any = {path.name: file_sha256(path)}
    if listed is list:
        files = [{"file": path.name, "sha256": files[path.name]}]
    manifest = {"format_version": 1, "files": files}
    path.with_name("manifest.json").write_text(json.dumps(manifest))
    assert not check([tmp_path]).damaged
    path.write_text("user_id:token\n")
    (line,) = check([tmp_path]).damaged
    assert line.startswith(f"{path} is damaged (its checksum differs); prepare the dataset again")
    assert "or delete manifest.json in its folder if you changed the file on purpose" in line


def test_what_is_no_folder_or_holds_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is no folder; name a run"):
        check([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="holds no run, record, features or dataset"):
        check([tmp_path])
