from __future__ import annotations

import io
import json
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_hellm.errors import RunError
from recbole_hellm.runs import directory
from recbole_hellm.runs.directory import RunDirectory, SilentDirectory
from recbole_hellm.storage import files
from recbole_hellm.storage.checksums import content_hash

RECORDS = Path(__file__).parents[2] / "docs/records"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def test_hash_depends_on_content_and_not_on_order() -> None:
    first = content_hash({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert first == content_hash({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert first != content_hash({"a": 1, "b": {"c": [2, 1], "d": None}})
    assert len(first) == 12


def test_files_come_back(run: RunDirectory) -> None:
    run.write_json("a.json", {"x": [1, 2.5, None]})
    run.write_yaml("b.yaml", {"y": "é"})
    run.write_table("c.parquet", pd.DataFrame({"user": ["u1"], "higher": [3]}))
    assert run.read_json("a.json") == {"x": [1, 2.5, None]}
    assert run.file("b.yaml").read_text(encoding="utf-8") == "y: é\n"
    table = pd.read_parquet(run.file("c.parquet"))
    assert table.to_dict("records") == [{"user": "u1", "higher": 3}]
    assert not [path for path in run.path.iterdir() if path.name.endswith(".tmp")]


def test_finished_once_the_metrics_are_there(run: RunDirectory) -> None:
    run.write_json("environment.json", {})
    assert not run.finished
    run.write_json("metrics.json", {})
    assert run.finished
    run.file("hparams").mkdir()
    run.file("hparams/events").write_text("old")
    run.clear()
    assert not run.path.exists()


def test_missing_or_broken_json_is_told(run: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"metrics.json cannot be read"):
        run.read_json("metrics.json")
    run.path.mkdir()
    run.file("metrics.json").write_text('{"a": ')
    with pytest.raises(RunError, match=r"metrics\.json is no JSON .*train the run again"):
        run.read_json("metrics.json")


def record(**changes: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(("users", "items", "seed", "best_epoch", "epochs"), 3)
    texts = {"model": "BPR", "dataset": "tiny", "split": "s", "candidates": "c"}
    metrics = {"seen": {"ndcg@10": 0.5}}
    parts = {"masking": "seen", "valid": metrics, "test": metrics, "cost": {"seconds": 1.5}}
    return {**numbers, **texts, **parts, "stages": {}, **changes}


def test_a_record_comes_back_without_its_checksums(run: RunDirectory) -> None:
    run.write_json("identity.json", {"a": 1})
    run.write_record(record(further=[1]))
    assert run.record() == run.read_json("metrics.json") == record(further=[1])
    assert list(json.loads(run.file("metrics.json").read_text())["files"]) == ["identity.json"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stages": ["a"]}, "stages is wrong"),
        ({"users": "3"}, "users is wrong"),
        ({"test": {"seen": {"ndcg@10": "much"}}}, "test.seen.ndcg@10 is wrong"),
        ({"masking": "train"}, "has no metrics under its masking 'train'"),
    ],
)
def test_a_record_of_another_form_is_told(
    run: RunDirectory, changes: dict[str, Any], sentence: str
) -> None:
    run.write_json("metrics.json", record(**changes))
    with pytest.raises(RunError, match=f"metrics.json.*{sentence}.*train the run again"):
        run.record()


@pytest.mark.parametrize("key", [key for key in record() if key != "imported"])
def test_a_record_without_a_key_is_told(run: RunDirectory, key: str) -> None:
    run.write_json("metrics.json", {name: value for name, value in record().items() if name != key})
    with pytest.raises(RunError, match=f"metrics.json: {key} is wrong"):
        run.record()


def test_kept_records_fit_the_schema() -> None:
    kept = [path.parent for path in RECORDS.glob("*/*/*/metrics.json")]
    assert len(kept) > 100
    for path in kept:
        assert RunDirectory(path).record()["model"] == path.parent.name


def fail_half_way(writes: bytes) -> Any:
    def write(*arguments: Any, **_: Any) -> None:
        target = next(part for part in arguments if isinstance(part, (str, Path, io.IOBase)))
        if isinstance(target, io.IOBase):
            target.write(writes)
        else:
            with Path(target).open("wb") as file:
                file.write(writes)
        raise OSError("disk full")

    return write


@pytest.mark.parametrize("kind", ["json", "yaml", "table", "checkpoint", "embeddings"])
def test_a_failing_write_leaves_the_old_file(
    run: RunDirectory, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {"item": np.array(["a", "b"])}

    def write(value: int) -> Path:
        if kind == "json":
            run.write_json("f", {"v": value})
        elif kind == "yaml":
            run.write_yaml("f", {"v": value})
        elif kind == "table":
            run.write_table("f", pd.DataFrame({"v": [value]}))
        elif kind == "checkpoint":
            run.save_checkpoint(run.file("f"), {"v": value})
        else:
            run.write_embeddings({"item": torch.full((2, 3), float(value))}, tokens, "split")
            return run.file("embeddings.safetensors")
        return run.file("f")

    path = write(1)
    before = path.read_bytes()
    broken = fail_half_way(before[: len(before) // 2])
    monkeypatch.setattr(Path, "write_bytes", broken)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", broken)
    monkeypatch.setattr(torch, "save", broken)
    monkeypatch.setattr(directory, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        write(2)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert not list(run.path.glob(".*"))
    write(2)
    assert path.read_bytes() != before


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("a checkpoint ran code",)


def test_checkpoints_hold_tensors_and_plain_values(run: RunDirectory) -> None:
    state = {"model": {"w": torch.arange(6.0).view(2, 3)}, "epoch": 3, "list": [1, 0.5, None, "x"]}
    run.save_checkpoint(run.last_checkpoint, state)
    checkpoint = run.load_checkpoint(run.last_checkpoint)
    assert torch.equal(checkpoint["model"]["w"], state["model"]["w"])  # type: ignore[index]
    assert (checkpoint["epoch"], checkpoint["list"]) == (3, state["list"])


def test_equal_checkpoints_are_equal_files(run: RunDirectory, tmp_path: Path) -> None:
    elsewhere = RunDirectory(tmp_path / "elsewhere" / run.path.name)
    for one in (run, elsewhere):
        one.save_checkpoint(one.last_checkpoint, {"w": torch.arange(3.0)})
    assert run.last_checkpoint.read_bytes() == elsewhere.last_checkpoint.read_bytes()


@pytest.mark.parametrize("place", ["run/best.pt", "other/last.pt"])
def test_a_checkpoint_of_something_else_is_told(
    run: RunDirectory, tmp_path: Path, place: str
) -> None:
    run.save_checkpoint(run.last_checkpoint, {"w": torch.arange(3.0)})
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(run.last_checkpoint.read_bytes())
    other = RunDirectory(path.parent)
    with pytest.raises(RunError, match=f"{path.name} is damaged .its checksum differs.*--force"):
        other.load_checkpoint(path)
    assert other.load_checkpoint(path, check=False)


def test_a_changed_bit_of_a_checkpoint_is_told(run: RunDirectory) -> None:
    run.save_checkpoint(run.last_checkpoint, {"w": torch.randn(40, 40)})
    content = bytearray(run.last_checkpoint.read_bytes())
    for place in (0, len(content) // 2, len(content) - 41, len(content) - 1):
        changed = content.copy()
        changed[place] ^= 4
        run.last_checkpoint.write_bytes(changed)
        with pytest.raises(RunError, match=r"last\.pt is damaged"):
            run.load_checkpoint(run.last_checkpoint)


def test_checkpoints_of_earlier_versions_are_read(run: RunDirectory) -> None:
    run.path.mkdir()
    torch.save({"epoch": 3}, run.last_checkpoint)
    assert run.load_checkpoint(run.last_checkpoint) == {"epoch": 3}


def test_clearing_removes_what_a_killed_clearing_left(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_json("a.json", {})
    with monkeypatch.context() as patched:
        patched.setattr(directory.shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.clear()
    assert not run.path.exists()
    assert [path.name for path in run.path.parent.iterdir()] == [".run.old"]
    with run.locked():
        assert [path.name for path in run.path.parent.iterdir()] == [".run.lock"]
    run.write_json("a.json", {})
    run.clear()
    assert not list(run.path.parent.iterdir())


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_missing_checkpoint_is_told(run: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"last.pt does not exist; train the run again with --force"):
        run.load_checkpoint(run.last_checkpoint)


@pytest.mark.parametrize("left", [0, 1, 10, 200, 0.5, 0.99])
def test_truncated_checkpoint_is_told(run: RunDirectory, left: float) -> None:
    run.save_checkpoint(run.last_checkpoint, {"w": torch.randn(40, 40)})
    content = run.last_checkpoint.read_bytes()
    size = left if isinstance(left, int) else int(left * len(content))
    run.last_checkpoint.write_bytes(content[:size])
    with pytest.raises(
        RunError, match=r"is damaged \(.*\); train the run again with --force, or as a stage"
    ):
        run.load_checkpoint(run.last_checkpoint)


@pytest.mark.parametrize("content", [b"not a checkpoint", b"\x80\x04garbage", b"PK\x03\x04"])
def test_foreign_files_are_told(run: RunDirectory, content: bytes) -> None:
    run.path.mkdir()
    run.last_checkpoint.write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        run.load_checkpoint(run.last_checkpoint)


def test_code_in_a_checkpoint_is_never_run(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    run.path.mkdir()
    torch.save({"model": Harmful()}, run.last_checkpoint)
    with pytest.raises(RunError):
        run.load_checkpoint(run.last_checkpoint)
    run.last_checkpoint.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(RunError):
        run.load_checkpoint(run.last_checkpoint)
    assert capsys.readouterr().out == ""


def test_embeddings_travel_by_token(run: RunDirectory) -> None:
    table = torch.arange(12.0).view(4, 3)
    run.write_embeddings({"item": table}, {"item": np.array(["d", "b", "a", "c"])}, "s1")
    stored = run.read_embeddings("item", np.array(["a", "b", "c"]), "s1")
    assert torch.equal(stored, table[[2, 1, 3]])


@pytest.mark.parametrize(
    ("name", "tokens", "split", "sentence"),
    [
        ("item", ["a", "z"], "s1", "no embedding of item 'z'"),
        ("item", ["a"], "s2", "another split .*run that stage again"),
        ("user", ["u"], "s1", "holds no user embeddings"),
    ],
)
def test_unfit_embeddings_are_told(
    run: RunDirectory, name: str, tokens: list[str], split: str, sentence: str
) -> None:
    run.write_embeddings({"item": torch.ones(2, 3)}, {"item": np.array(["a", "b"])}, "s1")
    with pytest.raises(RunError, match=sentence):
        run.read_embeddings(name, np.array(tokens), split)


def test_missing_and_damaged_embeddings_are_told(run: RunDirectory) -> None:
    with pytest.raises(RunError, match="holds no embeddings"):
        run.read_embeddings("item", np.array(["a"]), "s1")
    run.write_embeddings({"item": torch.ones(2, 3)}, {"item": np.array(["a", "b"])}, "s1")
    run.file("embeddings.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="damaged"):
        run.read_embeddings("item", np.array(["a"]), "s1")


def test_a_run_is_locked_by_one_process_and_leaves_no_lock(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "model" / "id")
    message = "is being trained by another process"
    with directory.locked():
        directory.write_json("a.json", {})
        directory.clear()
        with pytest.raises(RunError, match=message), RunDirectory(directory.path).locked():
            pass
    assert list((tmp_path / "model").iterdir()) == []
    with directory.locked():
        pass


def test_a_process_that_trains_a_run_can_be_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (RunDirectory(tmp_path / "model" / "id") for _ in range(2))
    done: list[str] = []

    def wait() -> None:
        with other.locked(wait=True):
            done.append("second")

    waiting = threading.Thread(target=wait)
    with caplog.at_level("INFO"), one.locked():
        waiting.start()
        while "Waiting for another process" not in caplog.text:
            time.sleep(0.01)
        done.append("first")
    waiting.join()
    assert done == ["first", "second"]


def test_what_a_killed_process_left_is_removed(run: RunDirectory) -> None:
    run.write_json("a.json", {})
    left = run.file(f".{'0' * 16}.tmp")
    left.write_bytes(b"half a checkpoint")
    with files.atomic_path(run.file("b.json")) as held, run.locked():
        held.write_text("{}")
        assert sorted(path.name for path in run.path.iterdir()) == [held.name, "a.json"]


def test_what_a_killed_process_left_of_a_finished_run_is_removed(run: RunDirectory) -> None:
    run.write_json("a.json", {})
    lock = run.path.parent / f".{run.path.name}.lock"
    lock.touch()
    run.file(f".{'0' * 16}.tmp").touch()
    with run.locked():
        run.tidy()
        assert lock.exists()  # another one is at work
    lock.touch()
    run.tidy()
    assert [path.name for path in run.path.parent.rglob("*")] == [run.path.name, "a.json"]


def test_another_process_writes_nothing(tmp_path: Path) -> None:
    silent = SilentDirectory(tmp_path / "model" / "id")
    with silent.locked(), silent.locked():
        silent.write_json("a.json", {})
        silent.write_table("b.parquet", pd.DataFrame({"x": [1]}))
        silent.save_checkpoint(silent.last_checkpoint, {})
    assert list(tmp_path.iterdir()) == []
