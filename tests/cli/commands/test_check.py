from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_hellm.cli.main import main
from recbole_hellm.runs.directory import RunDirectory


def test_folders_must_be_named(tell: Callable[..., str]) -> None:
    told = tell("check", keep=False)
    assert told == "check needs folders; name runs, records or datasets: check FOLDER."


def test_the_exit_status_tells_of_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "0123")
    run.save_checkpoint(run.last_checkpoint, {"epoch": 1})
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(": 0 damaged files, 0 without checksums.\n")
    content = bytearray(run.last_checkpoint.read_bytes())
    content[100] ^= 1
    run.last_checkpoint.write_bytes(content)
    assert main(["check", f"--folders={tmp_path}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "last.pt is damaged" in lines[0]
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    text = "".join(capsys.readouterr().out.split())
    assert "Usage:recbole-hellmcheckFOLDERS...[--KEY=VALUE...]" in text
