from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.exporting import export as module
from recbole_hellm.exporting.export import KIND, check_folder, export, summary
from recbole_hellm.exporting.settings import ExportSettings
from recbole_hellm.runs.results import RunResult
from recbole_hellm.storage.checksums import file_sha256

Trained = Callable[[str], RunResult]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``writer(entries)``: what is written in place of an index; an error is raised."""
    monkeypatch.setattr(module, "faiss_library", lambda: None)

    def use(outcome: dict[str, Any] | Exception) -> None:
        def write(_: Any, folder: Path, __: bool) -> dict[str, Any]:
            (folder / "a.npy").write_text("a")
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(module, "write_index", write)

    return use


ENTRIES = {"check": {"users": 3, "max_abs_difference": 0.5}}


def test_a_folder_with_a_manifest(
    trained: Trained, writer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer(ENTRIES)
    monkeypatch.chdir(tmp_path)
    result = trained("BPR")
    folder = export(result, ExportSettings(format="faiss"))
    assert folder == Path("exports/tiny") / f"BPR-{result.path.name}-faiss"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == KIND and manifest["check"]["users"] == 3
    told = [manifest[key] for key in ("model", "dataset", "split")]
    assert told == ["BPR", "tiny", result.record["split"]]
    assert manifest["sha256"] == {"a.npy": file_sha256(folder / "a.npy")}
    assert summary(folder) == (
        f"{folder}: a.npy of BPR; scores of 3 users differ from the model's by at most 5.0e-01"
    )
    assert export(result.path, ExportSettings(format="faiss")) == folder  # it is replaced


def test_nothing_is_left_of_what_fails(trained: Trained, writer: Any, tmp_path: Path) -> None:
    target = tmp_path / "out"
    settings = ExportSettings(format="faiss", output=str(target))
    writer(RunError("It is wrong."))
    with pytest.raises(RunError, match=r"It is wrong\."):
        export(trained("BPR"), settings)
    assert list(tmp_path.iterdir()) == []
    writer(ENTRIES)
    export(trained("BPR"), settings)
    writer(RunError("It is wrong."))
    with pytest.raises(RunError):
        export(trained("BPR"), settings)
    assert (target / "manifest.json").is_file()  # the earlier one stays


def test_other_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty")
    check_folder(tmp_path / "absent")
    (tmp_path / "file").write_text("mine")
    for name, content in (("thesis", "{}"), ("list", "[]"), ("bad", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").write_text("mine")
    for name in ("file", "thesis", "list", "bad", "photos"):
        with pytest.raises(ConfigError, match="name another folder with --output"):
            check_folder(tmp_path / name)
    (tmp_path / "thesis/manifest.json").write_text(json.dumps({"kind": KIND}))
    check_folder(tmp_path / "thesis")
