from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from recbole_hellm.errors import RunError
from recbole_hellm.storage import checkpoint_files


def test_a_checkpoint_is_known_by_its_subject(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint_files.save(path, {"w": torch.ones(3)}, "one")
    checkpoint_files.check(path, "one", RunError, "do it again")
    with pytest.raises(RunError, match=r"checksum differs\); do it again\.$"):
        checkpoint_files.check(path, "other", RunError, "do it again")
    assert torch.equal(torch.load(path, weights_only=True)["w"], torch.ones(3))


@pytest.mark.parametrize("action", ["check", "load"])
def test_a_missing_checkpoint_is_told(tmp_path: Path, action: str) -> None:
    call = getattr(checkpoint_files, action)
    with pytest.raises(RunError, match=r"none.pt does not exist; do it again\.$"):
        call(tmp_path / "none.pt", "cpu", RunError, "do it again")


def test_what_is_no_state_is_told(tmp_path: Path) -> None:
    path = tmp_path / "list.pt"
    torch.save([1, 2], path)
    with pytest.raises(RunError, match="it holds no state"):
        checkpoint_files.load(path, "cpu", RunError, "do it again")


def test_every_truncated_or_changed_file_without_a_checksum_is_told_or_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "old.pt"
    torch.save({"w": torch.ones(3), "name": "x", "list": [1, None, (2.5, "y")]}, path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        for damaged in (content[:place], content[:place] + b"\xff" + content[place + 1 :]):
            path.write_bytes(damaged)
            with contextlib.suppress(RunError):
                checkpoint_files.load(path, "cpu", RunError, "do it again")
