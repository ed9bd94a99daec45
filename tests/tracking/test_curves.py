from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from recbole_hellm.errors import RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.tracking.curves import read_curves


def test_curves_of_a_resumed_run_are_one(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    for start, add in ((0, 0.0), (2, 10.0)):  # epochs 3 and 4 were trained again
        with SummaryWriter(str(tmp_path), filename_suffix=f".{start}") as writer:
            for epoch in range(start, 4):
                writer.add_scalar("loss/total", epoch + add, epoch)
            writer.add_scalar("valid/ndcg@10", 0.5, start)
    with SummaryWriter(str(tmp_path / "hparams")) as writer:
        writer.add_scalar("other", 1.0, 0)
    curves = read_curves(tmp_path)
    assert set(curves) == {"loss/total", "valid/ndcg@10"}
    assert curves["loss/total"] == [(1, 0.0), (2, 1.0), (3, 12.0), (4, 13.0)]


def test_long_curves_are_kept_whole(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for epoch in range(1500):
            writer.add_scalar("loss/total", 1.0, epoch)
    assert len(read_curves(tmp_path)["loss/total"]) == 1500


def written(folder: Path, values: int = 30) -> Path:
    with SummaryWriter(str(folder)) as writer:
        for epoch in range(values):
            writer.add_scalar("loss/total", 1.0 + epoch, epoch)
    (path,) = folder.glob("events.*")
    return path


def test_events_that_were_changed_are_told(tmp_path: Path) -> None:
    path = written(tmp_path)
    RunDirectory(tmp_path).write_record({"model": "A"})
    content = path.read_bytes()
    (tmp_path / "events.out.tfevents.9.other").write_bytes(content)  # of another run
    assert len(read_curves(tmp_path)["loss/total"]) == 30
    for damaged in (b"", content[:-40], content[:500] + b"x" + content[501:]):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=rf"{path.name} is damaged \(its checksum differs\)"):
            read_curves(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match=r"is damaged \(it is missing\)"):
        read_curves(tmp_path)


def test_what_an_earlier_version_wrote_is_read_with_a_warning_where_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path)
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 0x10
        for damaged in (content[:place], bytes(changed)):
            caplog.clear()
            path.write_bytes(damaged)
            try:
                curves = read_curves(tmp_path)
            except RunError as error:
                assert str(path) in str(error)  # noqa: PT017
            else:
                whole = len(curves.get("loss/total", [])) == 30
                assert whole or str(path) in caplog.text or damaged == content[:place]
